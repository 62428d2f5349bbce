//! Server reflection, v1 and v1alpha: what is served, as file descriptors, so that `grpcurl`,
//! `formic call` and dashboards need no proto files.

use std::collections::HashMap;
use std::sync::Arc;

use buffa_descriptor::generated::descriptor::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use bytes::Bytes;
use formic_core::Code;
use formic_rpc::rt::buffa::Message;
use formic_rpc::{Handle, Streaming};
use futures::StreamExt;

/// Files by name and symbol.
#[derive(Debug, Default)]
pub struct Index {
    services: Vec<String>,
    files: HashMap<String, File>,
    symbols: HashMap<String, String>,
}

#[derive(Debug)]
struct File {
    encoded: Bytes,
    imports: Vec<String>,
}

impl Index {
    /// Reads descriptor sets; those that do not decode are left out with a warning.
    #[must_use]
    pub fn new(sets: &[&'static [u8]], services: Vec<String>) -> Self {
        let mut index = Self { services, ..Self::default() };
        for set in sets {
            match FileDescriptorSet::decode_from_slice(set) {
                Ok(set) => set.file.into_iter().for_each(|file| index.add(&file)),
                Err(error) => {
                    tracing::warn!(%error, "a descriptor set does not decode; reflection leaves it out")
                }
            }
        }
        index
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let name = file.name.clone().unwrap_or_default();
        if self.files.contains_key(&name) {
            return;
        }
        let package = file.package.as_deref().unwrap_or_default();
        for service in &file.service {
            let full = join(package, service.name.as_deref());
            for method in &service.method {
                self.symbols.insert(join(&full, method.name.as_deref()), name.clone());
            }
            self.symbols.insert(full, name.clone());
        }
        for message in &file.message_type {
            self.add_message(package, message, &name);
        }
        for item in &file.enum_type {
            self.symbols.insert(join(package, item.name.as_deref()), name.clone());
        }
        let encoded = file.encode_to_bytes();
        self.files.insert(name, File { encoded, imports: file.dependency.clone() });
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: &str) {
        let full = join(scope, message.name.as_deref());
        for nested in &message.nested_type {
            self.add_message(&full, nested, file);
        }
        for item in &message.enum_type {
            self.symbols.insert(join(&full, item.name.as_deref()), file.to_owned());
        }
        self.symbols.insert(full, file.to_owned());
    }

    /// A file and everything it imports, itself first.
    fn closure(&self, name: &str) -> Option<Vec<Bytes>> {
        let mut seen = vec![name];
        let mut out = vec![self.files.get(name)?.encoded.clone()];
        let mut at = 0;
        while at < seen.len() {
            for import in self.files.get(seen[at]).map(|file| file.imports.as_slice()).unwrap_or_default() {
                if !seen.contains(&import.as_str())
                    && let Some(file) = self.files.get(import)
                {
                    seen.push(import);
                    out.push(file.encoded.clone());
                }
            }
            at += 1;
        }
        Some(out)
    }

    fn containing(&self, symbol: &str) -> Option<Vec<Bytes>> {
        self.closure(self.symbols.get(symbol)?)
    }
}

fn join(scope: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    if scope.is_empty() { name.into() } else { format!("{scope}.{name}") }
}

/// Both versions are the same but for the package's name.
macro_rules! reflection {
    ($module:ident, $pb:path) => {
        mod $module {
            use super::*;
            use formic_rpc::{Context, Inbound, Reply, reply};
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            use $pb as pb;

            pub(super) struct Service(pub(super) Arc<Index>);

            impl Service {
                fn answer(&self, request: pb::ServerReflectionRequest) -> pb::ServerReflectionResponse {
                    let files = |found: Option<Vec<Bytes>>, what: &str| match found {
                        Some(files) => MessageResponse::from(pb::FileDescriptorResponse {
                            file_descriptor_proto: files
                                .into_iter()
                                .map(|file| file.to_vec().into())
                                .collect(),
                            ..Default::default()
                        }),
                        None => not_found(what),
                    };
                    let answer = match &request.message_request {
                        Some(MessageRequest::FileByFilename(name)) => files(self.0.closure(name), name),
                        Some(MessageRequest::FileContainingSymbol(symbol)) => {
                            files(self.0.containing(symbol), symbol)
                        }
                        Some(MessageRequest::ListServices(_)) => {
                            let service = |name: &String| pb::ServiceResponse {
                                name: name.clone(),
                                ..Default::default()
                            };
                            MessageResponse::from(pb::ListServiceResponse {
                                service: self.0.services.iter().map(service).collect(),
                                ..Default::default()
                            })
                        }
                        Some(MessageRequest::AllExtensionNumbersOfType(of)) => {
                            MessageResponse::from(pb::ExtensionNumberResponse {
                                base_type_name: of.clone(),
                                ..Default::default()
                            })
                        }
                        Some(MessageRequest::FileContainingExtension(_)) => not_found("extension"),
                        None => error(Code::InvalidArgument, "the request asks for nothing"),
                    };
                    pb::ServerReflectionResponse {
                        valid_host: request.host.clone(),
                        original_request: request.into(),
                        message_response: Some(answer),
                        ..Default::default()
                    }
                }
            }

            fn not_found(what: &str) -> MessageResponse {
                error(Code::NotFound, &format!("{what} is not known here"))
            }

            fn error(code: Code, message: &str) -> MessageResponse {
                MessageResponse::from(pb::ErrorResponse {
                    error_code: i32::from(code.number()),
                    error_message: message.into(),
                    ..Default::default()
                })
            }

            impl pb::ServerReflection for Service {
                async fn server_reflection_info(
                    &self,
                    _: Context,
                    requests: Inbound<pb::ServerReflectionRequest>,
                ) -> Reply<Streaming<pb::ServerReflectionResponse>> {
                    let service = Self(Arc::clone(&self.0));
                    reply(Streaming::new(requests.map(move |request| request.map(|r| service.answer(r)))))
                }
            }

            pub(super) fn handle(index: Arc<Index>) -> Arc<dyn Handle> {
                Arc::new(pb::ServerReflectionServer::new(Service(index)))
            }
        }
    };
}

reflection!(v1, crate::r#gen::grpc::reflection::v1);
reflection!(v1alpha, crate::r#gen::grpc::reflection::v1alpha);

/// The reflection services over these descriptors, the present one and the one that older clients ask for.
#[must_use]
pub fn handles(index: Index) -> [Arc<dyn Handle>; 2] {
    let index = Arc::new(index);
    [v1::handle(Arc::clone(&index)), v1alpha::handle(index)]
}
