// For functions that measure what the CPU can do, as compilers write them.
#ifndef RETENTIVEKV_LAB_WIDEST_VECTORS_H_
#define RETENTIVEKV_LAB_WIDEST_VECTORS_H_

// Compiles a function for the widest vectors that the CPU may have. Sanitizers cannot run what is
// chosen as a program is loaded.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define RKV_WIDEST_VECTORS \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RKV_WIDEST_VECTORS
#endif

#endif  // RETENTIVEKV_LAB_WIDEST_VECTORS_H_
