//! Turns the bench's protos into what its services and callers use.

fn main() {
    formic_build::compile(&["proto/bench/v1/echo.proto", "proto/bench/v1/traffic.proto"]);
}
