//! Turns the proto into messages, the trait of the service and its client.

fn main() {
    formic_build::compile(&["proto/polyglot/desk/v1/desk.proto"]);
}
