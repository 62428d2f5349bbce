//! Compiles the service's own proto.

fn main() {
    formic_build::compile(&["proto/shop/product/v1/product.proto"]);
}
