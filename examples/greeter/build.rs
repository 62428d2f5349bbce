//! Turns the proto into messages, the trait of the service and its client.

fn main() {
    formic_build::compile(&["proto/greeter/v1/greeter.proto"]);
}
