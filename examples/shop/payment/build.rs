//! Compiles the service's own proto.

fn main() {
    formic_build::compile(&["proto/shop/payment/v1/payment.proto"]);
}
