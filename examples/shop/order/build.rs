//! Compiles the service's own proto, and those of the services that it calls.

fn main() {
    formic_build::Config::new()
        .include("proto")
        .include("../product/proto")
        .include("../payment/proto")
        .include("../shipping/proto")
        .file("shop/order/v1/order.proto")
        .file("shop/product/v1/product.proto")
        .file("shop/payment/v1/payment.proto")
        .file("shop/shipping/v1/shipping.proto")
        .compile_or_exit();
}
