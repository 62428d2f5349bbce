//! The same proto as everybody's, through tonic's own generator and without protoc.

const INCLUDE: &str = "../../proto";
const FILE: &str = "bench/v1/echo.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let set = protox::compile([FILE], [INCLUDE])?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
