//! Generates against `formic_rpc` itself, so that the facade is not needed to test the generator.

use std::path::Path;

fn main() {
    formic_build::Config::new()
        .file("codegen/v1/echo.proto")
        .file("codegen/v1/clashes.proto")
        .file("codegen/keywords/type/match.proto")
        .file("unpackaged.proto")
        .runtime("::formic_rpc::rt")
        .compile_or_exit();

    // As code that is committed: somewhere else, with a runtime module of the crate's own.
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    formic_build::Config::new()
        .include("proto")
        .file("codegen/keywords/type/match.proto")
        .out_dir(Path::new(&out).join("committed"))
        .runtime("crate::rt")
        .compile_or_exit();
}
