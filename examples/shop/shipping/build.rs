//! Compiles the service's own proto.

fn main() {
    formic_build::compile(&["proto/shop/shipping/v1/shipping.proto"]);
}
