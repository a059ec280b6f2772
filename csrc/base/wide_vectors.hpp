// SPDX-License-Identifier: Apache-2.0
// Compiles a function twice: for every processor, and for those with wide vectors.
#pragma once

// Twice as fast with AVX2, which is looked for when the library is loaded: by a mechanism that only
// glibc on x86-64 has, and that the thread sanitizer does not survive. NEON needs no clone.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#define PACKING_AVX2_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define PACKING_AVX2_CLONES
#endif
