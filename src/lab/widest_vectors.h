// For functions that measure the CPU's speed with compiled code, without intrinsics.
#ifndef RETENTIVEKV_LAB_WIDEST_VECTORS_H_
#define RETENTIVEKV_LAB_WIDEST_VECTORS_H_

// Compiles a function for the widest vectors that the CPU may have. Off under sanitizers: they
// cannot run functions that are chosen at load time.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define RKV_WIDEST_VECTORS \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RKV_WIDEST_VECTORS
#endif

#endif  // RETENTIVEKV_LAB_WIDEST_VECTORS_H_
