//! Compiles the service's own proto.

fn main() {
    formic_build::compile(&["proto/shop/user/v1/user.proto"]);
}
