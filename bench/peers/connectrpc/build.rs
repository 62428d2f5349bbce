//! The same proto as everybody's, through connectrpc's own generator and without protoc.

use std::path::PathBuf;

const INCLUDE: &str = "../../proto";
const FILE: &str = "bench/v1/echo.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let set = out.join("echo.fds");
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_imports(true).open_file(FILE)?;
    std::fs::write(&set, compiler.encode_file_descriptor_set())?;
    connectrpc_build::Config::new()
        .descriptor_set(&set)
        .files(&[FILE])
        .include_file("echo.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
