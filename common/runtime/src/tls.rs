//! TLS of every client in the process: rustls with ring, chosen once. aws-lc-rs would need a C toolchain and cmake.

/// Makes ring the process' provider. Call before the first TLS client is built; again is a no-op.
pub fn install_provider() {
    // Someone else, such as a worker's own main, may have chosen a provider before: theirs holds.
    drop(rustls::crypto::ring::default_provider().install_default());
}
