//! Services in Rust: the trait that authors implement, the server around it, and the client.
//!
//! Plain text. Every name that is not the package's own is written with its full path, because a
//! package may well have a message called `Option` or `Send`.

mod comments;
mod emit;
mod names;

use std::collections::BTreeMap;

use buffa_codegen::context::CodeGenContext;
use buffa_codegen::generated::descriptor::method_options::IdempotencyLevel;
use buffa_codegen::generated::descriptor::{FileDescriptorProto, MethodDescriptorProto};

use self::comments::Comments;
use self::names::Names;
use crate::fault::Error;
use crate::messages::redirect;
use crate::schema::Schema;

/// The number of `service` in a file's descriptor, and of `method` in a service's: comments are
/// found by these.
const SERVICE_FIELD: i32 = 6;
const METHOD_FIELD: i32 = 2;

/// A service, with all names chosen.
struct Service {
    /// `greeter.v1.Greeter`.
    full_name: String,
    docs: Vec<String>,
    idents: names::ServiceNames,
    methods: Vec<Method>,
    /// From the package's module to the root of the tree.
    root: String,
}

/// A method, with all names chosen and all types resolved.
struct Method {
    /// `/greeter.v1.Greeter/Hello`.
    path: String,
    docs: Vec<String>,
    /// `hello`.
    function: String,
    /// `HELLO`.
    constant: String,
    request: String,
    response: String,
    client_streams: bool,
    server_streams: bool,
    level: IdempotencyLevel,
}

/// The files with services, by package.
pub(crate) fn by_package(schema: &Schema) -> BTreeMap<String, Vec<&FileDescriptorProto>> {
    let mut packages: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for file in schema.generated().filter(|file| !file.service.is_empty()) {
        packages.entry(file.package.clone().unwrap_or_default()).or_default().push(file);
    }
    packages
}

/// The code of a package's services.
pub(crate) fn generate(
    package: &str,
    files: &[&FileDescriptorProto],
    schema: &Schema,
    context: &CodeGenContext<'_>,
    runtime: &str,
) -> Result<String, Error> {
    let mut names = Names::of_package(package, schema);
    let declared = files.iter().flat_map(|file| &file.service);
    names.reserve_services(declared.filter_map(|service| service.name.as_deref()));
    let depth = package.split('.').filter(|part| !part.is_empty()).count();
    // A file without a package sits one module below the root too.
    let root = "super::".repeat(depth.max(1));

    let mut out = String::new();
    for file in files {
        let comments = Comments::of(file);
        for (index, service) in (0..).zip(&file.service) {
            let name = service.name.as_deref().unwrap_or_default();
            let full_name = if package.is_empty() { name.to_owned() } else { format!("{package}.{name}") };
            let mut functions = names::Methods::default();
            let mut methods = Vec::new();
            for (position, method) in (0..).zip(&service.method) {
                let path = [SERVICE_FIELD, index, METHOD_FIELD, position];
                let docs = comments.at(&path);
                methods.push(resolve(method, &full_name, docs, &mut functions, &|name| {
                    let path = context.rust_type_relative(name, package, 0)?;
                    Some(redirect(&raw_path(&path), runtime))
                })?);
            }
            let docs = comments.at(&[SERVICE_FIELD, index]);
            let idents = names.service(name);
            emit::service(
                &mut out,
                &Service { full_name, docs, idents, methods, root: root.clone() },
                runtime,
            );
        }
    }
    Ok(out)
}

fn resolve(
    method: &MethodDescriptorProto,
    service: &str,
    docs: Vec<String>,
    functions: &mut names::Methods,
    rust_type: &dyn Fn(&str) -> Option<String>,
) -> Result<Method, Error> {
    let name = method.name.as_deref().unwrap_or_default();
    let resolve = |proto: &Option<String>| {
        let proto = proto.as_deref().unwrap_or_default();
        rust_type(proto).ok_or_else(|| {
            Error::Unsupported(format!("{service}.{name} uses `{proto}`, which has no Rust type"))
        })
    };
    let (function, constant) = functions.name(name);
    Ok(Method {
        path: format!("/{service}/{name}"),
        docs,
        function,
        constant,
        request: resolve(&method.input_type)?,
        response: resolve(&method.output_type)?,
        client_streams: method.client_streaming.unwrap_or(false),
        server_streams: method.server_streaming.unwrap_or(false),
        level: method.options.as_option().and_then(|options| options.idempotency_level).unwrap_or_default(),
    })
}

/// A path with those of its segments raw that are keywords.
fn raw_path(path: &str) -> String {
    let raw = |segment: &str| match segment {
        "" | "super" | "self" | "crate" | "Self" => segment.to_owned(),
        // buffa's map has them raw already where they are modules.
        _ if segment.starts_with("r#") => segment.to_owned(),
        _ => buffa_codegen::idents::escape_mod_ident(segment),
    };
    path.split("::").map(raw).collect::<Vec<_>>().join("::")
}
