//! The shop, driven by Python's `grpcio` over gRPC, with stubs that its own generator makes of the shop's protos.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use formic_e2e::{
    Absent, App, Manifest, Shared, Tool, foreign_file, install, installed, program, shop_protos,
};
use serde_json::json;

static SHOP: Shared = Shared::new();

/// The oldest Python that the pinned `grpcio` runs on.
const OLDEST: (u32, u32) = (3, 10);

/// A virtual environment with `grpcio`, and the stubs in it.
fn environment() -> Result<PathBuf, Absent> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let version = program("python3", "--version")?.stdout;
            let mut numbers =
                version.trim_start_matches("Python ").split('.').map_while(|n| n.trim().parse().ok());
            let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            if found < OLDEST {
                return Err(Absent(format!(
                    "grpcio needs Python {}.{}, and here is {version}",
                    OLDEST.0, OLDEST.1
                )));
            }
            let requirements = foreign_file("python/requirements.txt");
            let mut recipe = format!("{version}{}", fs::read_to_string(&requirements).unwrap());
            for (root, file) in shop_protos() {
                recipe.push_str(&fs::read_to_string(root.join(file)).unwrap());
            }
            installed("python", &recipe, |folder| {
                venv(folder)?;
                let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
                let pip =
                    Tool::new(python(folder)).args(pip).args(["--only-binary", ":all:", "--requirement"]);
                install(pip.args([&requirements]))?;
                stubs(folder);
                Ok(())
            })
        })
        .clone()
}

fn python(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

fn venv(folder: &Path) -> Result<(), Absent> {
    let made = Tool::new("python3").args(["-m", "venv"]).args([folder]).run();
    if made.code == Some(0) {
        return Ok(());
    }
    // Debian keeps what venv needs in a package of its own.
    let said = format!("{} {}", made.stdout, made.stderr);
    assert!(said.contains("ensurepip") || said.contains("No module named venv"), "{said}");
    Err(Absent(
        "this Python cannot make virtual environments: its `venv` or `ensurepip` is missing".to_owned(),
    ))
}

fn stubs(folder: &Path) {
    let out = folder.join("stubs");
    fs::create_dir(&out).unwrap();
    let mut protoc = Tool::new(python(folder)).args(["-m", "grpc_tools.protoc"]);
    for (root, _) in shop_protos() {
        protoc = protoc.args([format!("-I{}", root.display())]);
    }
    let _ = protoc
        .args([format!("--python_out={}", out.display()), format!("--grpc_python_out={}", out.display())])
        .args(shop_protos().into_iter().map(|(_, file)| file))
        .good();
}

fn case(name: &str) {
    let folder = match environment() {
        Ok(folder) => folder,
        Err(absent) => return formic_testing::skipped(name, &absent.0),
    };
    let app = SHOP.get(|| {
        let manifest = Manifest::foreign();
        // What a service refuses because others use the machine's processors is not what these clients are about.
        App::start(&manifest.set("service.product.env", "FORMIC_LIMITS", "'{\"adaptive\": false}'"))
    });
    let services = ["user", "product", "order", "payment", "shipping"];
    let places = json!({
        "gateway": app.gateway().authority,
        "services": services.iter().map(|name| ((*name).to_owned(), json!(app.address_of(name)))).collect::<serde_json::Map<_, _>>(),
        "stubs": folder.join("stubs"),
    });
    let ran = Tool::new(python(&folder))
        .args([foreign_file("python/cases.py").to_str().unwrap(), name])
        .env("FORMIC_E2E", places.to_string())
        // Compiled files belong beside no source.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("PYTHONPATH")
        .env("no_grpc_proxy", "127.0.0.1")
        .good();
    assert!(ran.stdout.contains(&format!("passed: {name}")), "{}", ran.stdout);
}

macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            case(stringify!($name));
        }
    )*};
}

cases! {
    unary
    many_at_once
    compressed
    server_streaming
    cancelled_stream
    deadline
    errors_with_details
    codes
    bidirectional
    health
}
