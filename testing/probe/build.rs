//! Generates against `formic_rpc` itself, so that the crates below the facade can use it.

fn main() {
    formic_build::Config::new().file("probe/v1/probe.proto").runtime("::formic_rpc::rt").compile_or_exit();
}
