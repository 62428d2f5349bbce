//! Turns the echo's proto into what its service and its caller use.

fn main() {
    formic_build::compile(&["proto/bench/v1/echo.proto"]);
}
