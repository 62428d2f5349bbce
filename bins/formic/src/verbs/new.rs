//! `formic new`: a service that compiles, passes its test and runs, in a folder of its own.

use std::path::{Path, PathBuf};

use formic_core::ServiceName;

use crate::cli::New;
use crate::exit::{Failure, Outcome};
use crate::output;

/// Where to, what from. Names in braces are filled in.
const FILES: [(&str, &str); 7] = [
    ("Cargo.toml", include_str!("../../templates/service/Cargo.toml.in")),
    ("build.rs", include_str!("../../templates/service/build.rs.in")),
    ("proto/{package}/v1/{package}.proto", include_str!("../../templates/service/service.proto.in")),
    ("src/main.rs", include_str!("../../templates/service/src/main.rs.in")),
    ("formic.toml", include_str!("../../templates/service/formic.toml.in")),
    (".gitignore", include_str!("../../templates/service/gitignore.in")),
    ("README.md", include_str!("../../templates/service/README.md.in")),
];

/// The source that this binary was built from; services depend on it by path until there is a release.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Names that would shadow what the generated code uses, that Cargo refuses, or that the manifest keeps for
/// itself.
const RESERVED: [&str; 11] =
    ["formic", "core", "std", "alloc", "test", "tests", "proc-macro", "self", "super", "crate", "gateway"];

/// Types that every file of a service sees: a service called `error` would hide one of them.
const SEEN: [&str; 44] = [
    // formic::prelude
    "Channel",
    "Client",
    "Code",
    "Context",
    "Error",
    "Inbound",
    "Metadata",
    "Reply",
    "Request",
    "Response",
    "Sender",
    "Service",
    "Stopping",
    "Streaming",
    "EnumValue",
    "MessageExt",
    "MessageField",
    // The language's own.
    "Option",
    "Some",
    "None",
    "Result",
    "Ok",
    "Err",
    "String",
    "Vec",
    "Box",
    "Default",
    "Clone",
    "Copy",
    "Send",
    "Sync",
    "Sized",
    "Drop",
    "Fn",
    "From",
    "Into",
    "Iterator",
    "Eq",
    "Ord",
    "ToString",
    "Future",
    "Unpin",
    // In the template.
    "HelloRequest",
    "HelloResponse",
];

pub(crate) fn run(args: &New) -> Outcome {
    let name = ServiceName::new(&args.name)
        .map_err(|error| Failure::user(error.to_string()).help("for example `formic new greeter`"))?;
    let package = name.as_str().replace('-', "_");
    let type_name = type_name(name.as_str());
    if RESERVED.contains(&name.as_str()) || SEEN.contains(&type_name.as_str()) || is_keyword(&package) {
        return Err(Failure::user(format!("{name} has a meaning in Rust or in Formic already"))
            .help("choose another name"));
    }
    let source = source(args.formic.as_deref())?;
    let folder = args.path.join(name.as_str());
    if folder.exists() {
        return Err(Failure::user(format!("{} exists already", folder.display()))
            .help("choose another name, or another place with --path"));
    }
    let fill = |text: &str| {
        text.replace("{name}", name.as_str())
            .replace("{package}", &package)
            .replace("{Type}", &type_name)
            .replace("{formic}", &source.display().to_string())
    };
    for (to, content) in FILES {
        let path = folder.join(fill(to));
        let write = || -> std::io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, fill(content))
        };
        write().map_err(|error| Failure::user(format!("cannot write {}", path.display())).because(error))?;
    }
    output::talk(&format!("made {} ({} files)", folder.display(), FILES.len()));
    output::talk(&format!(
        "\n  cd {}\n  cargo test     # its own test\n  formic up      # run it",
        folder.display()
    ));
    Ok(())
}

fn source(given: Option<&Path>) -> Outcome<PathBuf> {
    let candidate = given.map_or_else(|| PathBuf::from(SOURCE), Path::to_path_buf);
    candidate.canonicalize().ok().filter(|path| path.join("crates/formic/Cargo.toml").is_file()).ok_or_else(
        || {
            Failure::user(format!("there is no source of Formic at {}", candidate.display()))
                .help("say where it is: --formic <folder of the checkout>")
        },
    )
}

/// `order-book` becomes `OrderBook`.
fn type_name(name: &str) -> String {
    name.split('-')
        .map(|part| {
            let mut chars = part.chars();
            chars
                .next()
                .map(|first| first.to_ascii_uppercase().to_string() + chars.as_str())
                .unwrap_or_default()
        })
        .collect()
}

fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 49] = [
        "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "false", "fn",
        "for", "gen", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref",
        "return", "static", "struct", "trait", "true", "type", "unsafe", "use", "where", "while", "abstract",
        "try", "yield", "package", "become", "box", "do", "final", "macro", "override", "priv", "typeof",
        "unsized", "virtual",
    ];
    KEYWORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn whatever_the_prelude_brings_is_refused_as_a_name() {
        let source = include_str!("../../../../crates/formic/src/lib.rs");
        let prelude = source.split("pub mod prelude {").nth(1).unwrap().split("\n}").next().unwrap();
        let words = prelude.split(|c: char| !c.is_ascii_alphanumeric());
        let types: Vec<_> = words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase())).collect();
        assert!(types.len() > 10, "{types:?}");
        for name in types {
            // `Message as MessageExt` brings the second.
            assert!(SEEN.contains(&name) || name == "Message", "{name}");
        }
    }

    #[test]
    fn names_that_do_not_compile_are_refused() {
        let folder = std::env::temp_dir().join(format!("formic-new-{}", std::process::id()));
        for name in ["do", "error", "context", "option", "hello-request", "gateway", "self"] {
            let args = New { name: name.into(), path: folder.clone(), formic: None };
            assert!(run(&args).is_err_and(|failure| failure.to_string().contains("another name")), "{name}");
        }
        assert!(!folder.exists());
    }

    #[test]
    fn type_names() {
        assert_eq!(type_name("order-book"), "OrderBook");
        assert_eq!(type_name("greeter"), "Greeter");
    }
}
