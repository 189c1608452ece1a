//! Gives the kernel, and only the kernel, its linker script.
//!
//! The kernel and the host binaries may share one target triple. In a `rustflags` table these arguments would reach
//! every binary; `cargo:rustc-link-arg-bin` gives them to one.

use std::env;

/// The kernel's binary target.
const KERNEL: &str = "xenstore-stubdom";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=linker.ld");
    if env::var_os("CARGO_FEATURE_KERNEL").is_none() {
        return;
    }
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("-Wl,-T,{root}/linker.ld");
    let arguments = [
        // No crt1.o: `boot/pv.s` is the entry.
        "-nostartfiles",
        // No libc and no libgcc: `src/kernel/intrinsics.rs` has the few functions that the compiler's code calls.
        "-nostdlib",
        // No dynamic section and no interpreter.
        "-static",
        // Fixed addresses, as with the relocation model in `.cargo/kernel.toml`.
        "-no-pie",
        // A build id would be a second note in the note segment, and differs from build to build.
        "-Wl,--build-id=none",
        // Segments are aligned to 4 KiB pages, not to 2 MiB: the file stays small.
        "-Wl,-z,max-page-size=4096",
        // The domain builder sets up no executable stack.
        "-Wl,-z,noexecstack",
        // The addresses of all sections.
        script.as_str(),
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bin={KERNEL}={argument}");
    }
}
