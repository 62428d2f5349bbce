//! The text of a service.

use std::fmt::Write;

use buffa_codegen::generated::descriptor::method_options::IdempotencyLevel;

use super::{Method, Service};
use crate::output::DESCRIPTOR_SET;

const SEND: &str = "::core::marker::Send";

/// Appends a service's code.
pub(super) fn service(out: &mut String, service: &Service, rt: &str) {
    constants(out, service, rt);
    service_trait(out, service, rt);
    server(out, service, rt);
    client(out, service, rt);
}

fn docs(out: &mut String, indent: &str, lines: &[String], otherwise: &str) {
    if lines.is_empty() {
        let _ = writeln!(out, "{indent}/// {otherwise}");
    }
    for line in lines {
        let space = if line.is_empty() { "" } else { " " };
        let _ = writeln!(out, "{indent}///{space}{line}");
    }
}

fn constants(out: &mut String, service: &Service, rt: &str) {
    let Service { full_name, idents, methods, .. } = service;
    let _ = writeln!(
        out,
        "\n/// The full name of the service.\npub const {}: &str = {full_name:?};\n",
        idents.constant
    );
    let _ = writeln!(out, "/// The methods of `{full_name}`.\npub mod {} {{", idents.methods);
    for method in methods {
        let kind = match (method.client_streams, method.server_streams) {
            (false, false) => "Unary",
            (false, true) => "ServerStream",
            (true, false) => "ClientStream",
            (true, true) => "BidiStream",
        };
        let level = match method.level {
            IdempotencyLevel::NO_SIDE_EFFECTS => ".safe()",
            IdempotencyLevel::IDEMPOTENT => ".idempotent(true)",
            IdempotencyLevel::IDEMPOTENCY_UNKNOWN => "",
        };
        let Method { path, constant, .. } = method;
        let _ = writeln!(
            out,
            "    /// `{path}`\n    pub const {constant}: {rt}::Method = {rt}::Method::new({path:?}, {rt}::Kind::{kind}){level};"
        );
    }
    out.push_str("}\n\n");
}

fn service_trait(out: &mut String, service: &Service, rt: &str) {
    let Service { full_name, idents, methods, .. } = service;
    docs(out, "", &service.docs, &format!("The service `{full_name}`."));
    let _ = writeln!(out, "pub trait {}: {SEND} + ::core::marker::Sync + 'static {{", idents.service);
    for method in methods {
        docs(out, "    ", &method.docs, &format!("`{}`", method.path));
        let Method { function, request, response, .. } = method;
        let input = if method.client_streams {
            format!("requests: {rt}::Inbound<{request}>")
        } else {
            format!("request: {rt}::Request<'_, {request}>")
        };
        let output = if method.server_streams {
            format!("{rt}::Reply<{rt}::Streaming<{response}>>")
        } else {
            format!("{rt}::Reply<{response}>")
        };
        let _ = writeln!(
            out,
            "    fn {function}(&self, ctx: {rt}::Context, {input}) -> impl ::core::future::Future<Output = {output}> + {SEND};"
        );
    }
    out.push_str("}\n\n");
}

fn server(out: &mut String, service: &Service, rt: &str) {
    let Service { idents, methods, root, .. } = service;
    let (name, server, marker) = (&idents.service, &idents.server, &idents.marker);
    let _ = writeln!(
        out,
        "/// Serves an implementation of [`{name}`].
pub struct {server}<T>(::std::sync::Arc<T>);

impl<T: {name}> {server}<T> {{
    /// Takes the implementation.
    pub fn new(service: T) -> Self {{
        Self(::std::sync::Arc::new(service))
    }}

    /// Takes an implementation that is shared.
    pub fn from_arc(service: ::std::sync::Arc<T>) -> Self {{
        Self(service)
    }}
}}

impl<T> ::core::clone::Clone for {server}<T> {{
    fn clone(&self) -> Self {{
        Self(::std::sync::Arc::clone(&self.0))
    }}
}}

impl<T> ::core::fmt::Debug for {server}<T> {{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
        f.write_str({server:?})
    }}
}}

impl<T: {name}> {rt}::Handle for {server}<T> {{
    fn method(&self, path: &str) -> ::core::option::Option<{rt}::Method> {{
        match path {{"
    );
    for Method { path, constant, .. } in methods {
        let _ = writeln!(
            out,
            "            {path:?} => ::core::option::Option::Some({}::{constant}),",
            idents.methods
        );
    }
    // Without methods there is nothing to serve, and `service` would be an unused variable.
    let service_let = "        let service = ::std::sync::Arc::clone(&self.0);\n";
    let _ = write!(
        out,
        "            _ => ::core::option::Option::None,
        }}
    }}

    fn call(&self, call: {rt}::Call) -> {rt}::Answering {{
{}        match call.method.path() {{
",
        if methods.is_empty() { "" } else { service_let }
    );
    for method in methods {
        dispatch(out, name, method, rt);
    }
    let constants: Vec<_> =
        methods.iter().map(|method| format!("{}::{}", idents.methods, method.constant)).collect();
    let _ = writeln!(
        out,
        "            _ => {rt}::unimplemented(&call.method),
        }}
    }}

    fn services(&self) -> ::std::vec::Vec<{rt}::RpcService> {{
        ::std::vec![{rt}::describe({}, &[{}])]
    }}

    fn descriptors(&self) -> ::std::vec::Vec<&'static [u8]> {{
        ::std::vec![{root}{DESCRIPTOR_SET}]
    }}
}}

/// Says that an implementation is of [`{name}`], where several services are possible.
#[derive(Clone, Copy, Debug)]
pub struct {marker};

impl<T: {name}> {rt}::IntoHandle<{marker}> for ::std::sync::Arc<T> {{
    fn into_handle(self) -> ::std::sync::Arc<dyn {rt}::Handle> {{
        ::std::sync::Arc::new({server}(self))
    }}
}}
",
        idents.constant,
        constants.join(", "),
    );
}

fn dispatch(out: &mut String, name: &str, method: &Method, rt: &str) {
    let Method { path, function, request, .. } = method;
    let answer = if method.server_streams { "stream_answer" } else { "answer" };
    // Called by its path: `service.clone(…)` would be the `Arc`'s.
    let (input, argument) = if method.client_streams {
        (format!("let (ctx, codec, requests) = {rt}::streaming::<{request}>(call);"), "requests".to_owned())
    } else {
        (
            format!(
                "let (ctx, codec, body) = {rt}::unary::<{request}>(call)?;
                let view = {rt}::view::<{request}>(&body)?;"
            ),
            format!("{rt}::Request::new(&view, &body)"),
        )
    };
    let _ = writeln!(
        out,
        "            {path:?} => ::std::boxed::Box::pin(async move {{
                {input}
                let response = <T as {name}>::{function}(&service, ctx, {argument}).await?;
                {rt}::{answer}(response, codec)
            }}),"
    );
}

fn client(out: &mut String, service: &Service, rt: &str) {
    let Service { full_name, idents, methods, .. } = service;
    let client = &idents.client;
    let _ = writeln!(
        out,
        "/// Calls `{full_name}`.
#[derive(Clone, Debug)]
pub struct {client} {{
    channel: {rt}::Channel,
}}

impl {client} {{
    /// Calls over this channel.
    pub fn new(channel: {rt}::Channel) -> Self {{
        Self {{ channel }}
    }}"
    );
    for method in methods {
        out.push('\n');
        docs(out, "    ", &method.docs, &format!("`{}`", method.path));
        let Method { function, request, response, constant, .. } = method;
        let (input, argument) = if method.client_streams {
            (format!("requests: impl {rt}::Stream<Item = {request}> + {SEND} + 'static"), "requests")
        } else {
            (format!("request: {request}"), "&request")
        };
        let (output, call) = match (method.client_streams, method.server_streams) {
            (false, false) => ("UnaryCall", "unary"),
            (false, true) => ("StreamCall", "server_stream"),
            (true, false) => ("UnaryCall", "client_stream"),
            (true, true) => ("StreamCall", "bidi_stream"),
        };
        let _ = writeln!(
            out,
            "    pub fn {function}(&self, {input}) -> {rt}::{output}<{response}> {{
        self.channel.{call}({}::{constant}, {argument})
    }}",
            idents.methods
        );
    }
    out.push_str("}\n");
}
