//! The shop, driven by `@connectrpc/connect` under Node over Connect, gRPC and gRPC-Web. Its messages come from
//! descriptors that are compiled here, so that Node needs no generator.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use formic_e2e::{
    Absent, App, Manifest, Shared, Tool, foreign_file, install, installed, program, repository, shop_protos,
};
use serde_json::json;

static SHOP: Shared = Shared::new();

/// The oldest Node that the pinned packages run on.
const OLDEST: u32 = 20;
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// A folder with the packages, the cases and the descriptors.
fn environment() -> Result<PathBuf, Absent> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let version = program("node", "--version")?.stdout;
            let major =
                version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
            if major.is_none_or(|major: u32| major < OLDEST) {
                return Err(Absent(format!("connect-node needs Node {OLDEST}, and here is {version}")));
            }
            let _ = program("npm", "--version")?;
            let recipe =
                FILES.map(|file| fs::read_to_string(foreign_file("node").join(file)).unwrap()).concat();
            let folder = installed("node", &recipe, |folder| {
                for file in FILES {
                    fs::copy(foreign_file("node").join(file), folder.join(file)).unwrap();
                }
                let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"];
                install(Tool::new("npm").args(npm).within(folder))
            })?;
            // These are quick to make, and may change between runs.
            fs::copy(foreign_file("node/cases.mjs"), folder.join("cases.mjs")).unwrap();
            fs::write(descriptors(&folder), compiled()).unwrap();
            Ok(folder)
        })
        .clone()
}

fn descriptors(folder: &Path) -> PathBuf {
    folder.join("descriptors.bin")
}

/// The protos of the shop, of reflection and of error details as a set of file descriptors.
fn compiled() -> Vec<u8> {
    let mut roots = vec![repository().join("crates/formic-server/proto"), foreign_file("proto")];
    let mut files =
        vec!["grpc/reflection/v1/reflection.proto".to_owned(), "google/rpc/error_details.proto".to_owned()];
    for (root, file) in shop_protos() {
        roots.push(root);
        files.push(file);
    }
    let mut compiler = protox::Compiler::new(roots).unwrap();
    compiler.include_imports(true);
    compiler.open_files(files).unwrap();
    compiler.encode_file_descriptor_set()
}

fn case(protocol: &str, name: &str) {
    let folder = match environment() {
        Ok(folder) => folder,
        Err(absent) => {
            return formic_testing::skipped(&format!("{protocol} {name}"), &absent.0);
        }
    };
    let app = SHOP.get(|| App::start(&Manifest::foreign()));
    let places = json!({
        "gateway": app.gateway().authority,
        "services": { "order": app.address_of("order") },
        "descriptors": descriptors(&folder),
    });
    let ran = Tool::new("node")
        .args(["cases.mjs", protocol, name])
        .within(&folder)
        .env("FORMIC_E2E", places.to_string())
        .env_remove("NODE_OPTIONS")
        .good();
    assert!(ran.stdout.contains(&format!("passed: {protocol} {name}")), "{}", ran.stdout);
}

macro_rules! cases {
    ($($module:ident $protocol:literal: $($name:ident)*;)*) => {$(
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::case($protocol, stringify!($name));
                }
            )*
        }
    )*};
}

cases! {
    connect_json_http1 "connect-json-http1": unary server_streaming deadline errors_with_details codes;
    connect_proto_http1 "connect-proto-http1": unary server_streaming errors_with_details;
    connect_json_http2 "connect-json-http2": unary server_streaming deadline bidirectional;
    connect_get_http1 "connect-get-http1": unary;
    grpc_http2 "grpc-http2": unary server_streaming deadline errors_with_details codes bidirectional;
    grpc_web_http1 "grpc-web-http1": unary server_streaming deadline errors_with_details codes;
    grpc_web_http2 "grpc-web-http2": unary server_streaming;
}
