//! The code of each package: messages by buffa, services by us, all of it naming only the runtime.

use std::collections::BTreeMap;

use buffa_codegen::CodeGenConfig;
use buffa_codegen::context::CodeGenContext;

use crate::fault::Error;
use crate::schema::Schema;
use crate::service;

/// The crates that buffa's code names, and that a user's crate does not depend on.
const CRATES: [&str; 3] = ["buffa", "buffa_types", "serde"];

/// What buffa would take from yet another crate; only messages *about* protos need it.
const FOREIGN: &str = "::buffa_descriptor::";

/// The code of every package, by the package's name.
pub(crate) type Packages = BTreeMap<String, String>;

/// Generates the code.
pub(crate) fn generate(schema: &Schema, runtime: &str) -> Result<Packages, Error> {
    let mut config = CodeGenConfig::default();
    config.generate_json = true;
    config.generate_views = true;
    config.file_per_package = true;

    let files = schema.without_extensions();
    // It also warns of conveniences left out for want of a free name; the rest works without them.
    let generated = buffa_codegen::generate(&files, &schema.generated, &config)
        .map_err(|error| Error::Unsupported(error.to_string()))?;
    let mut packages = Packages::new();
    for file in generated {
        if file.content.contains(FOREIGN) {
            return Err(Error::Unsupported(format!(
                "package `{}` uses messages of google/protobuf/descriptor.proto; carry them as `bytes`",
                file.package
            )));
        }
        packages.entry(file.package).or_default().push_str(&redirect(&file.content, runtime));
    }

    let context = CodeGenContext::for_generate(&files, &schema.generated, &config);
    for (package, files) in service::by_package(schema) {
        let code = service::generate(&package, &files, schema, &context, runtime)?;
        packages.entry(package).or_default().push_str(&code);
    }
    Ok(packages)
}

/// Makes code that names crates take them from the runtime.
pub(crate) fn redirect(code: &str, runtime: &str) -> String {
    let mut out = String::with_capacity(code.len() * 5 / 4);
    let mut rest = code;
    while let Some(at) = rest.find("::") {
        let (before, path) = rest.split_at(at);
        out.push_str(before);
        // `super::serde::X` is a package of the user's, `::serde::X` the crate.
        let absolute = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>');
        let name = path[2..].split("::").next().unwrap_or_default();
        if absolute && CRATES.contains(&name) {
            out.push_str(runtime);
        }
        out.push_str("::");
        rest = &path[2..];
    }
    out.push_str(rest);
    name_serde(&out, runtime)
}

/// Tells serde's derives where serde is.
fn name_serde(code: &str, runtime: &str) -> String {
    let derive = format!("#[derive({runtime}::serde::");
    let attribute = format!("\n#[serde(crate = \"{runtime}::serde\")]");
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(&derive) {
        let end = rest[at..].find(")]").map_or(rest.len(), |end| at + end + 2);
        out.push_str(&rest[..end]);
        out.push_str(&attribute);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_taken_from_the_runtime_and_packages_are_not() {
        let code = "<T as ::buffa::Message>, super::serde::X, \"::buffa::json\" ::core::x::serde::y";
        let want = "<T as ::r::buffa::Message>, super::serde::X, \"::r::buffa::json\" ::core::x::serde::y";
        assert_eq!(redirect(code, "::r"), want);
    }

    #[test]
    fn derives_learn_where_serde_is() {
        let code = "#[derive(::serde::Serialize, ::serde::Deserialize)]\npub struct A;";
        let want = "#[derive(::r::serde::Serialize, ::serde::Deserialize)]"
            .replace(", ::serde", ", ::r::serde")
            + "\n#[serde(crate = \"::r::serde\")]\npub struct A;";
        assert_eq!(redirect(code, "::r"), want);
    }
}
