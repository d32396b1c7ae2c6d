//! What the linker is told, so that a run loads no library besides the C library.

// The unwinder comes from the compiler's archive instead of libgcc_s.so.1: finding, mapping and binding that
// library costs each run as much as a commit.
#[cfg(target_env = "gnu")]
#[link(name = "gcc_eh", kind = "static")]
unsafe extern "C" {}

/// The natural logarithm, for the ranking of SQLite's full-text search: all that the program needs of
/// libm.so.6. To load that library costs `run -- true` 39,000 of 4,037,000 instructions (1 %, cachegrind) and
/// nine system calls; the crate costs 384 bytes.
#[unsafe(no_mangle)]
extern "C" fn log(x: f64) -> f64 {
    libm::log(x)
}
