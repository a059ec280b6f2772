# SPDX-License-Identifier: Apache-2.0
"""What every argument of Megatron's parser means for a packed run.

A new argument of Megatron belongs here, or into ``megatron_packing.megatron.flags.REFUSED``, once
somebody has read what it does: whether Megatron's own code, which runs on packed rows as on others,
honors it (``MEGATRON``), this package does (``PACKING``), or nothing is lost where it is ignored
(``HARMLESS``). What Megatron's pretrain_gpt.py and its model builder read and nothing else does is
what a packed run would ignore.

Of the parsers of megatron-core 0.17.1 to 0.19.2, of Megatron-LM before 0.17, and of its main branch
of 2026-08-22 (0.20.0).
"""

from __future__ import annotations


def _names(text: str) -> set[str]:
    return set(text.split())


CHECKED = _names(
    """
        apply_rope_fusion attention_backend attention_dropout calculate_per_token_loss
        cp_comm_type cpu_offloading_num_layers create_attention_mask_in_dataloader
        cuda_graph_impl dataloader_inter_document_masking dataloader_type
        defer_embedding_wgrad_compute deterministic_mode eval_micro_batch_size
        experimental_attention_variant fp4 fp8 fp8_dot_product_attention
        fp8_multi_head_attention fp8_output_proj full_validation
        heterogeneous_layers_config_encoded_json heterogeneous_layers_config_path
        hybrid_layer_pattern hybrid_override_pattern layernorm_zero_centered_gamma
        linear_attention_freq log_max_attention_logit micro_batch_size moe_layer_freq
        moe_router_enable_expert_bias moe_router_load_balancing_type mtp_num_layers
        multi_latent_attention
        no_rope_freq non_persistent_global_ckpt_dir position_embedding_type
        pretrained_checkpoint qk_clip rotary_interleaved softmax_type spec
        step_batch_size_schedule transformer_impl use_grouped_gemm_for_dense_mlp
        use_kitchen_attention use_mamba_mem_eff_path use_rope_scaling use_te_activation_func
        use_transformer_engine_op_fuser window_attn_skip_freq window_size
    """
)
"""Refused with some values or beside some other flags: megatron_packing/megatron/checks.py,
hybrid_checks.py, storage_checks.py and layer_spec.py."""

PACKING = _names(
    """
        check_for_nan_in_loss_and_grad context_parallel_size data_cache_path
        eval_global_batch_size eval_iters ffn_hidden_size fp8_recipe global_batch_size
        group_query_attention hidden_size kv_channels load mid_level_dataset_surplus
        mmap_bin_files multiple_validation_sets non_persistent_ckpt_type num_attention_heads
        object_storage_cache_path
        num_dataset_builder_threads num_experts num_query_groups rope_scaling_factor save
        seed seq_length sequence_parallel skip_train split swiglu tensor_model_parallel_size
    """
)
"""Read by this package, perhaps by Megatron too."""

HARMLESS = {
    "masks of the corpus say what is trained, and pads are never documents' tokens": _names(
        """
        allow_ambiguous_pad_tokens
        """
    ),
    "corpora tell their lengths as fast as that file would": _names(
        """
        per_dataset_sequences_path
        """
    ),
    "read with --record-memory-history only, which is refused": _names(
        """
        memory_snapshot_path
        """
    ),
    "read with --sft or its tokenizer, which packing has no use for": _names(
        """
        sft_tokenizer_prompt_format
        """
    ),
    "Megatron does not read it, and it would not change what is computed": _names(
        """
        dist_ckpt_save_pre_mcore_014 enable_full_sharding_in_hsdp inprocess_max_iterations
        inprocess_progress_watchdog_interval
        """
    ),
    "the index of a blend is loaded at once, which takes moments": _names(
        """
        dataloader_defer_npy_index_mmap
        """
    ),
    "read with --fim-data only, which is refused": _names(
        """
        fim_eod_token fim_fragment_rate fim_middle_token fim_no_prefix fim_pad_token
        fim_prefix_token fim_rate fim_split_sample fim_spm_rate fim_suffix_token
        """
    ),
    "read with --logits-load-dir or --logits-save-dir only, which are refused": _names(
        """
        logits_load_decode_threads logits_load_ignore_errors logits_load_kd_loss_alpha
        logits_load_msc_prefetch_depth logits_load_prefetch_factor logits_save_dtype
        logits_save_top_k logits_save_top_p logits_save_top_p_min_k
        """
    ),
    "read by layers of multi-token prediction, whose losses are exact (multi_token.py)": _names(
        """
        mtp_detach_heads mtp_loss_scaling_factor mtp_standalone mtp_use_repeated_layer
        """
    ),
    "read with --perform-rl-step only, which is refused": _names(
        """
        grpo_clamp_eps_lower grpo_clamp_eps_upper grpo_default_temperature
        grpo_default_top_p grpo_entropy_term_weight grpo_filter_groups_with_same_reward
        grpo_group_size grpo_iterations grpo_kl_beta grpo_prompts_per_step langrl_env_config
        langrl_external_server langrl_inference_server_conversation_template
        langrl_inference_server_type refit_method rl_calculate_intra_group_similarity
        rl_consumption_granularity rl_default_temperature rl_default_top_k rl_default_top_p
        rl_durable_rollout_bank rl_generation_batch_size rl_generation_lag
        rl_importance_sampling_truncation_coef rl_inference_expert_model_parallel_size
        rl_inference_expert_tensor_model_parallel_size rl_inference_logprobs_is_correction
        rl_inference_model_unified_memory_level rl_inference_parsers
        rl_inference_pipeline_model_parallel_size rl_inference_tensor_model_parallel_size
        rl_kv_cache_management_mode rl_max_inflight_requests
        rl_num_parallel_generation_batches rl_num_parallel_generations
        rl_offload_inference_model_weights_when_idle rl_offload_kv_cache_during_training
        rl_offload_optimizer_during_inference rl_parallel_generation_tasks
        rl_partial_rollouts rl_persist_cuda_graphs rl_profile rl_profile_dir
        rl_prompts_per_eval rl_remove_kv_cache_during_training rl_reset_cuda_graphs
        rl_rollout_bank_dir rl_rollout_bank_max_bytes rl_sequence_packing_algo
        rl_sequence_packing_bin_size rl_sequence_packing_max_sequences_per_bin
        rl_skip_bos_token rl_submission_granularity rl_training_cuda_graphs
        rl_use_sequence_packing rl_verify_model_weights_swap
        """
    ),
    "read by hybrid models where text is generated, not in training": _names(
        """
        mamba_inference_conv_states_dtype mamba_inference_ssm_states_dtype
        """
    ),
    "read by retrieval models only, which are refused": _names(
        """
        retro_attention_gate retro_cyclic_train_iters retro_encoder_attention_dropout
        retro_encoder_hidden_dropout retro_encoder_layers retro_num_neighbors
        retro_num_retrieved_chunks retro_verify_neighbor_count
        """
    ),
    "read with --experimental-attention-variant dsa only, which is refused": _names(
        """
        dsa_indexer_head_dim dsa_indexer_k_norm_epsilon dsa_indexer_k_norm_fp32
        dsa_indexer_loss_coeff dsa_indexer_n_heads dsa_indexer_rope_interleaved
        dsa_indexer_rotate_activation dsa_indexer_scoring_relu dsa_indexer_skip_topk_offset
        dsa_indexer_topk dsa_indexer_topk_freq dsa_indexer_use_sparse_loss
        dsa_kernel_backend
        """
    ),
    "read by gated delta product layers only, which no flag of a packed run chooses": _names(
        """
        gdp_cutedsl_kernel gdp_num_chunk_states_to_recompute gdp_num_householder
        """
    ),
    "read with an expert's capacity only, which is refused": _names(
        """
        moe_pad_expert_input_to_capacity moe_token_drop_policy
        """
    ),
    "read with CUDA graphs only, which are refused": _names(
        """
        cuda_graph_modules cuda_graph_scope cuda_graph_scope_deprecated
        cuda_graph_warmup_steps
        """
    ),
    "read by the trainers of other models, not by that of GPT": _names(
        """
        bert_binary_head bert_embedder_type bert_load biencoder_projection_dim
        biencoder_shared_query_context_model block_data_path classes_fraction
        data_per_class_fraction data_sharding decoder_num_layers decoder_seq_length
        dino_bottleneck_size dino_freeze_last_layer dino_head_hidden_size
        dino_local_crops_number dino_local_img_size dino_norm_last_layer dino_teacher_temp
        dino_warmup_teacher_temp dino_warmup_teacher_temp_epochs embedding_path
        encoder_num_layers evidence_data_path head_lr_mult ict_head_size ict_load img_h
        img_w indexer_batch_size indexer_log_interval iter_per_epoch mask_factor mask_prob
        mask_type num_channels num_classes onnx_safe output_bert_embeddings patch_dim
        query_in_block_prob retriever_report_topk_accuracies retriever_score_scaling
        retriever_seq_length sample_rate short_seq_prob swin_backbone_type titles_data_path
        use_one_sent_docs vision_backbone_type vision_pretraining_type
        """
    ),
    "read where text is generated, not in training": _names(
        """
        cache_mla_latents decode_only_cuda_graphs enable_chunked_prefill flash_decode
        inference_batch_times_seqlen_threshold inference_coordinator_port
        inference_cuda_graph_all_prefills inference_cuda_graph_max_tokens
        inference_cuda_graph_scope inference_disable_ep_consensus
        inference_disable_triton_nvls_kernels inference_dynamic_batching
        inference_dynamic_batching_async_sched_mode inference_dynamic_batching_block_size
        inference_dynamic_batching_buffer_size_gb
        inference_dynamic_batching_cuda_graph_max_tokens
        inference_dynamic_batching_cuda_graph_mixed_prefill_count
        inference_dynamic_batching_cuda_graph_sizing_distribution
        inference_dynamic_batching_enable_prefix_caching
        inference_dynamic_batching_logprobs_mode
        inference_dynamic_batching_mamba_memory_ratio
        inference_dynamic_batching_max_requests inference_dynamic_batching_max_tokens
        inference_dynamic_batching_num_cuda_graphs
        inference_dynamic_batching_paused_buffer_size_gb
        inference_dynamic_batching_prefix_caching_coordinator_policy
        inference_dynamic_batching_prefix_caching_eviction_policy
        inference_dynamic_batching_prefix_caching_mamba_gb
        inference_dynamic_batching_prefix_caching_routing_alpha
        inference_dynamic_batching_sampling_backend
        inference_dynamic_batching_track_generated_token_events
        inference_dynamic_batching_track_paused_request_events
        inference_dynamic_batching_unified_memory_level inference_fuse_tp_communication
        inference_grouped_gemm_backend inference_logging_step_interval
        inference_max_requests inference_max_seq_length
        inference_moe_disable_fused_quant_kernels inference_moe_token_dispatcher_type
        inference_shards inference_text_gen_server_logging
        inference_use_synchronous_zmq_collectives inference_wandb_logging max_tokens_to_oom
        mlp_chunks_for_prefill moe_pad_experts_for_cuda_graph_inference
        nccl_all_reduce_for_prefill num_speculative_tokens offset_sampling_seed_by_dp_rank
        symmetric_ar_type use_legacy_static_engine
        """
    ),
    "deprecated: Megatron refuses it, ignores it, or turns it into another flag": _names(
        """
        async_tensor_model_parallel_allreduce batch_size checkpoint_activations
        ckpt_fully_parallel_save_deprecated deprecated_use_mcore_models
        disable_msc_deprecated dist_ckpt_format_deprecated enable_cuda_graph
        external_cuda_graph legacy_tokenizer model_parallel_size moe_extended_tp
        moe_use_legacy_grouped_gemm muon_use_nesterov scatter_gather_tensors_in_pipeline
        use_dist_ckpt_deprecated use_flash_attn warmup
        """
    ),
}
"""Ignored, with the reason why nothing is lost."""

MEGATRON = _names(
    """
        account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split
        accumulate_allreduce_grads_in_fp32 activation_func_clamp_value
        activation_offload_fraction adam_beta1 adam_beta2 adam_eps add_bias_linear
        add_position_embedding add_qkv_bias adlr_autoresume adlr_autoresume_interval
        align_grad_reduce align_param_gather app_tag_run_name app_tag_run_version
        apply_query_key_layer_scaling apply_wd_to_qk_layernorm async_ckpt_cpu_priority
        async_ckpt_io_priority async_ckpt_use_cpu_shm async_save async_strategy
        attention_output_gate attention_softmax_in_fp32 auto_detect_ckpt_format
        barrier_with_L1_time batch_invariant_backend batch_invariant_mode bf16
        bias_dropout_fusion bias_gelu_fusion bias_swiglu_fusion calc_ft_timeouts
        chat_template check_for_large_grads check_weight_hash_across_dp_replicas_interval
        ckpt_assume_constant_structure ckpt_convert_format ckpt_convert_save
        ckpt_convert_update_legacy_dist_opt_format ckpt_drop_redundant_extra_state
        ckpt_format ckpt_fully_parallel_load ckpt_fully_parallel_load_exchange_algo
        ckpt_fully_parallel_load_per_rank_objects ckpt_fully_parallel_load_process_group
        ckpt_fully_parallel_save ckpt_fully_parallel_save_process_group
        ckpt_load_validate_sharding_integrity ckpt_pg_tensors_cache_create
        ckpt_pg_tensors_cache_path ckpt_step clip_grad clone_scatter_output_in_embedding
        config_logger_dir cpu_offloading_retain_pinned_cpu_buffers create_all_gather_group
        cross_entropy_fusion_impl cross_entropy_loss_fusion data_args_path
        data_parallel_random_init data_parallel_sharding_strategy data_path ddp_bucket_size
        ddp_num_buckets ddp_pad_buckets_for_high_nccl_busbw
        ddp_param_name_patterns_for_fp32_local_accumulation
        ddp_reduce_scatter_with_fp32_accumulation decoder_first_pipeline_num_layers
        decoder_last_pipeline_num_layers decoupled_lr decoupled_min_lr
        decrease_batch_size_if_needed delay_offload_until_cuda_graph delay_wgrad_compute
        delta_offload_bytes_across_pp_ranks disable_bf16_reduced_precision_matmul
        disable_jit_fuser disable_mamba_mem_eff_path disable_straggler_on_startup
        disable_symmetric_registration dist_ckpt_optim_fully_reshardable
        dist_ckpt_strictness dist_ckpt_workers distrib_optim_fully_reshardable_mem_efficient
        distribute_saved_activations distributed_backend distributed_timeout_minutes
        distributed_timeout_seconds_after_init dump_param_to_param_group_map
        embedding_init_method_std empty_unused_memory_level enable_experimental
        enable_ft_package enable_gloo_process_groups enable_mhc_connections enable_msc
        enable_one_logger encoder_seq_length end_weight_decay
        ep_overlap_early_attn_memory_release error_injection_rate error_injection_type
        eval_interval exit_duration_in_mins exit_interval exit_on_missing_checkpoint
        exit_signal exit_signal_handler exit_signal_handler_for_dataloader
        exit_signal_handler_for_training exp_avg_dtype exp_avg_sq_dtype
        expert_model_parallel_size expert_tensor_parallel_num_weight_shards
        expert_tensor_parallel_size fake_process_group fault_injector_delay_start_iteration
        fault_injector_fault_delay fault_injector_fault_probabilities
        fault_injector_fault_types fault_injector_mtti_seconds fault_injector_num_ranks
        fault_injector_offset_seconds fault_injector_ranks fault_injector_seed
        fine_grained_activation_offloading fine_grained_offloading_max_inflight_offloads
        finetune first_last_layers_bf16 flash_attention_version
        flight_recorder_dump_on_timeout flight_recorder_dump_path
        flight_recorder_extra_dump_on_exec flight_recorder_include_only_active
        flight_recorder_include_stack_trace flight_recorder_trace_buffer_size fp16
        fp16_lm_cross_entropy fp32_residual_connection fp4_param_gather
        fp4_quantizer_factory fp4_recipe fp8_amax_compute_algo fp8_amax_history_len
        fp8_interval fp8_margin fp8_param_gather fp8_quantizer_factory fp8_wgrad
        freeze_all_layers fsdp_db_use_persist_buf_on_alloc_fail fsdp_double_buffer
        fsdp_manual_registration ft_num_warmup_iters fused_residual_rmsnorm
        glu_linear_offset gpu_sniff_test_interval grad_reduce_in_bf16
        gradient_accumulation_fusion gradient_reduce_div_fusion gtp_expert_remat_nccl_ub
        gtp_remat_nccl_ub gtp_remat_opt_in_modules
        gtp_remat_reduce_scatter_with_fp32_accumulation hidden_dropout
        hierarchical_context_parallel_sizes high_priority_a2a_comm_stream
        high_priority_stream_groups hysteresis inference_rng_tracker init_method_std
        init_method_xavier_uniform init_model_with_meta_device initial_loss_scale
        inprocess_active_world_size inprocess_barrier_timeout inprocess_completion_timeout
        inprocess_empty_cuda_cache inprocess_granularity inprocess_hard_timeout
        inprocess_heartbeat_interval inprocess_heartbeat_timeout inprocess_last_call_wait
        inprocess_monitor_process_interval inprocess_monitor_thread_interval
        inprocess_restart inprocess_soft_timeout inprocess_termination_grace_time
        iterations_to_skip keep_fp8_transpose_cache kitchen_attention_backend
        kitchen_config_file kitchen_recipe_number kv_lora_rank layernorm_epsilon
        lazy_mpu_init linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads
        linear_num_value_heads linear_value_head_dim lion_beta1 lion_beta2
        load_main_params_from_ckpt local_rank log_device_memory_used log_energy log_interval
        log_loss_scale_to_tensorboard log_memory_interval log_memory_to_tensorboard
        log_num_zeros_in_grad log_params_norm log_progress log_straggler log_throughput
        log_timers_to_tensorboard log_validation_ppl_to_tensorboard
        log_world_size_to_tensorboard logging_level logit_dtype loss_scale loss_scale_window
        lr lr_decay_iters lr_decay_samples lr_decay_style lr_warmup_fraction lr_warmup_init
        lr_warmup_iters lr_warmup_samples lr_wsd_decay_iters lr_wsd_decay_samples
        lr_wsd_decay_style main_grads_dtype main_params_dtype make_vocab_size_divisible_by
        mamba_head_dim mamba_num_groups mamba_num_heads mamba_state_dim
        mamba_training_ssm_states_dtype manual_gc manual_gc_eval manual_gc_interval
        masked_softmax_fusion max_position_embeddings max_seqlen_per_dp_cp_rank
        megatron_fsdp_enable_fine_grained_param_gather megatron_fsdp_grad_comm_dtype
        megatron_fsdp_main_grads_dtype megatron_fsdp_main_params_dtype
        megatron_fsdp_max_pool_double_buffer megatron_fsdp_version merge_file metadata_path
        mhc_init_gating_factor mhc_num_residual_streams mhc_recompute_layer_num
        mhc_sinkhorn_iterations microbatch_group_size_per_vp_stage min_loss_scale min_lr
        min_offloaded_tensor_size mla_down_proj_fusion mlp_chunks_for_training
        moe_apply_probs_on_input moe_aux_loss_coeff moe_combine_bwd_dtype moe_deepep_num_sms
        moe_dispatch_fwd_dtype moe_enable_deepep moe_enable_routing_replay
        moe_ffn_hidden_size moe_flex_dispatcher_backend moe_flex_dispatcher_num_sms
        moe_grouped_gemm moe_hybridep_num_blocks_permute moe_hybridep_num_blocks_unpermute
        moe_hybridep_num_sms moe_hybridep_num_sms_preprocessing
        moe_hybridep_pad_uneven_dispatch_inputs moe_input_jitter_eps moe_latent_size
        moe_layer_recompute moe_mlp_glu_interleave_size moe_ncclep_static_shape
        moe_ncclep_zero_copy moe_paged_stash moe_paged_stash_buffer_size_factor_cpu
        moe_paged_stash_buffer_size_factor_cuda moe_paged_stash_page_size
        moe_per_layer_logging moe_permute_fusion moe_permute_fusion_into_hybridep
        moe_router_bias_update_rate moe_router_dtype moe_router_force_biased
        moe_router_force_load_balancing moe_router_fusion moe_router_group_topk
        moe_router_num_groups moe_router_padding_for_fp8 moe_router_padding_for_quantization
        moe_router_pre_softmax moe_router_quantile_balancing_ema moe_router_score_function
        moe_router_topk moe_router_topk_scaling_factor
        moe_routing_trace_capture_hidden_states moe_routing_trace_capture_logits
        moe_routing_trace_dump_weights moe_routing_trace_max_training_iters
        moe_routing_trace_path moe_shared_expert_gate moe_shared_expert_glu_interleave_size
        moe_shared_expert_intermediate_size moe_shared_expert_overlap
        moe_single_grouped_bias moe_single_grouped_weight moe_token_dispatcher_type
        moe_upcycling_granularity moe_use_grouped_tensor moe_use_upcycling moe_z_loss_coeff
        mrope_section mscale mscale_all_dim muon_coefficient_type muon_extra_scale_factor
        muon_fp32_matmul_prec muon_momentum muon_nesterov muon_num_ns_steps
        muon_scalar_optimizer muon_scale_mode muon_split_qkv muon_tp_mode muon_use_syrk
        mup_attn_scale_power mup_base_head_dim mup_base_hidden_size mup_embedding_mult
        mup_output_mult mup_width_mult nccl_communicator_config_path nccl_ub no_load_optim
        no_load_rng no_persist_layer_norm no_save_optim no_save_rng
        no_weight_decay_cond_type non_persistent_local_ckpt_algo
        non_persistent_local_ckpt_dir non_persistent_save_interval normalization
        null_tokenizer_eod_id null_tokenizer_pad_id num_distributed_optimizer_instances
        num_layers num_layers_at_end_in_bf16 num_layers_at_start_in_bf16
        num_layers_per_virtual_pipeline_stage num_virtual_stages_per_pipeline_rank
        num_workers nvtx_ranges offload_modules one_logger_async one_logger_project
        one_logger_run_name optimizer optimizer_cpu_offload optimizer_cuda_graph
        optimizer_offload_fraction otel_enabled otel_service_name otel_span_groups
        outer_dp_sharding_strategy overlap_cpu_optimizer_d2h_h2d
        overlap_dispatch_backward_with_experts_wgrad overlap_grad_reduce overlap_p2p_comm
        overlap_p2p_comm_warmup_flush overlap_param_gather
        overlap_param_gather_with_optimizer_step override_ckpt_iteration
        override_opt_param_scheduler pad_vocab_size padded_vocab_size
        per_split_data_args_path perform_initialization phase_transition_iterations
        pin_cpu_grads pin_cpu_params pipeline_model_parallel_comm_backend
        pipeline_model_parallel_layout pipeline_model_parallel_size profile profile_ranks
        profile_step_end profile_step_start pytorch_profiler_collect_callstack
        pytorch_profiler_collect_chakra pytorch_profiler_collect_shapes q_lora_rank
        qk_clip_alpha qk_clip_threshold qk_head_dim qk_l2_norm qk_layernorm
        qk_pos_emb_head_dim quick_geglu recompute_activations recompute_granularity
        recompute_method recompute_modules recompute_num_layers record_shapes
        relative_attention_max_distance relative_attention_num_buckets replication
        replication_factor replication_jump rerun_mode result_rejected_tracker_filename
        reuse_grad_buf_for_mxfp8_param_ag rope_type rotary_base rotary_percent
        rotary_scaling_factor rotary_seq_len_interpolation_factor
        run_workload_inspector_server save_activations_interval save_dgrads_interval
        save_interval save_params_interval save_retain_interval save_tokenizer_assets
        save_tokens_per_expert_interval save_wgrads_interval sgd_momentum
        sharp_enabled_group special_tokens squared_relu start_eval_at_iter
        start_weight_decay straggler_ctrlr_port straggler_minmax_count stream_ckpt_dequant
        strict_fsdp_dtensor_load suggested_communication_unit_size te_precision_config_file
        te_rng_tracker tensor_parallel_num_weight_shards tensorboard_dir
        tensorboard_log_interval tensorboard_queue_size test_data_path test_mode
        tiktoken_num_special_tokens tiktoken_pattern tiktoken_special_tokens
        timing_log_level timing_log_option tokenizer_hf_include_special_tokens
        tokenizer_hf_no_include_special_tokens tokenizer_hf_no_use_fast
        tokenizer_hf_use_fast tokenizer_metadata tokenizer_model
        tokenizer_sentencepiece_ignore_extra_whitespaces tokenizer_sentencepiece_legacy
        tokenizer_special_tokens tokenizer_type torch_fsdp2_reshard_after_forward
        tp_comm_bootstrap_backend tp_comm_bulk_dgrad tp_comm_bulk_wgrad tp_comm_overlap
        tp_comm_overlap_ag tp_comm_overlap_cfg tp_comm_overlap_rs tp_comm_overlap_rs_dgrad
        tp_comm_split_ag tp_comm_split_rs train_data_path train_iters train_samples
        train_sync_interval trust_remote_code untie_embeddings_and_output_weights
        use_checkpoint_args use_checkpoint_opt_param_scheduler use_cpu_initialization
        use_distributed_optimizer use_fused_weighted_squared_relu use_gigatoken
        use_gloo_process_groups use_grouped_gemm_for_shared_expert
        use_layer_wise_param_layout use_megatron_fsdp use_mp_args_from_checkpoint_args
        use_mup use_persistent_ckpt_worker use_precision_aware_optimizer
        use_pytorch_profiler use_ring_exchange_p2p use_rotary_position_embeddings use_sharp
        use_tokenizer_model_from_checkpoint_args use_torch_optimizer_for_cpu_offload
        use_tp_pp_dp_mapping v_head_dim valid_data_path validation_set_names
        verify_integrity vocab_extra_ids vocab_file vocab_size wandb_entity wandb_exp_name
        wandb_project wandb_save_dir weight_decay weight_decay_incr_style
        wgrad_deferral_limit yarn_beta_fast yarn_beta_slow
        yarn_correction_range_round_to_int yarn_original_max_position_embeddings
    """
)
"""Read by Megatron's own trainer, model, optimizer or checkpoints, on all rows alike."""

FIELDS = _names(
    """
        _cpu_offloading_context activation_func activation_func_fp8_input_store
        adaptive_muon_beta2 adaptive_muon_eps adaptive_muon_moment2_method
        add_extra_token_to_sequence autocast_dtype average_in_collective batch_p2p_comm
        batch_p2p_sync beta_fast beta_slow bias_activation_fusion blend blend_per_split
        bucket_size check_for_nan_in_grad cpu_offloading cpu_offloading_activations
        cpu_offloading_double_buffering cpu_offloading_weights create_attention_mask
        cuda_graph_retain_backward_graph cuda_graph_use_single_mempool data_parallel_size
        deallocate_pipeline_outputs decoupled_weight_decay defer_npy_index_mmap
        disable_parameter_transpose_cache drop_last_partial_validation_sequence
        embedding_init_method enable_autocast experimental_attention_variant_loss_scale_func
        expert_gtp_weight_remat_size fast_cache_load finalize_model_grads_func fp4_param
        fp8_param fsdp_all_gather_in_start_param_sync fused_single_qkv_rope
        gated_linear_unit grad_norm_skip_threshold grad_reduce_in_fp32 grad_scale_func
        grad_sync_func gtp_weight_remat_size hetereogenous_dist_checkpoint
        heterogeneous_block_specs inference_sampling_seed init_method inter_document_masking
        megatron_fsdp_cuda_graph_mode megatron_fsdp_use_decoupled_grad
        memory_efficient_layer_norm mock moe_grad_scale_func moe_router_topk_limited_devices
        moe_token_dropping mtp_grad_scale_func no_sync_func num_buckets
        num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage
        num_microbatches_with_partial_activation_checkpoints num_moe_experts
        original_max_position_embeddings output_layer_init_method
        pad_buckets_for_high_nccl_busbw param_name_patterns_for_fp32_local_accumulation
        param_sync_func params_dtype path_to_cache persist_layer_norm pipeline_dtype
        preserve_fp32_weights quant_recipe random_seed reduce_scatter_with_fp32_accumulation
        sequence_length sequence_parallel_size sequences_per_dataset
        sft_mock_dataset_config_json soap_precondition_frequency soap_shampoo_beta
        soap_use_kl_shampoo softmax_scale split_matrix store_param_remainders timers
        token_dtype_code tokenizer tp_comm_atomic_ag tp_comm_atomic_rs
        tp_comm_overlap_disable_fc1 tp_comm_overlap_disable_qkv tp_only_amax_red
        use_custom_fsdp use_inference_optimized_layers use_kitchen
        use_layer_wise_distributed_optimizer use_te_rng_tracker variable_seq_lengths
        varlen_mock_dataset_config_json varlen_sbhd_validation
        virtual_pipeline_model_parallel_size
    """
)
"""Fields of megatron-core's configurations that no argument sets by its name: Megatron derives
them from other arguments, or a program sets them."""
