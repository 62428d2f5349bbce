//! Compiles the user service's proto, the contract by which a verifier asks for the public keys.

fn main() {
    formic_build::Config::new().include("../user/proto").file("shop/user/v1/user.proto").compile_or_exit();
}
