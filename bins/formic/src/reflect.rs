//! Asking a service what it serves, by reflection: no proto file needed.

use std::collections::BTreeMap;

use buffa_descriptor::generated::descriptor::field_descriptor_proto::{Label, Type};
use buffa_descriptor::generated::descriptor::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use formic_core::{Error, Kind, Method};
use formic_rpc::Channel;
use formic_rpc::rt::buffa::Message;
use formic_server::proto::reflection::v1 as pb;
use pb::server_reflection_request::MessageRequest;
use pb::server_reflection_response::MessageResponse;

/// A service as its schema has it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) methods: Vec<MethodInfo>,
}

#[derive(Debug)]
pub(crate) struct MethodInfo {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) input: String,
    pub(crate) output: String,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: i32,
    pub(crate) name: String,
    /// What it is called in JSON.
    pub(crate) json: String,
    pub(crate) kind: String,
}

/// What a server told of its schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(crate) services: Vec<Service>,
    pub(crate) messages: BTreeMap<String, Vec<Field>>,
    pub(crate) enums: BTreeMap<String, Vec<String>>,
}

/// A server that sends more files than this for one service is not one to trust.
const MAX_FILES: usize = 1000;

async fn ask(channel: &Channel, request: MessageRequest) -> Result<MessageResponse, Error> {
    let request = pb::ServerReflectionRequest { message_request: Some(request), ..Default::default() };
    let requests = futures::stream::iter([request]);
    let mut answers = pb::ServerReflectionClient::new(channel.clone())
        .server_reflection_info(requests)
        .timeout(std::time::Duration::from_secs(5))
        .await?
        .into_message();
    let answer = answers.message().await?.and_then(|answer| answer.message_response);
    match answer {
        Some(MessageResponse::ErrorResponse(error)) => Err(Error::not_found(error.error_message.clone())),
        Some(answer) => Ok(answer),
        None => Err(Error::internal("the server's reflection ended without an answer")),
    }
}

/// The names of the services at the other end, Formic's own aside.
pub(crate) async fn services(channel: &Channel) -> Result<Vec<String>, Error> {
    match ask(channel, MessageRequest::ListServices(String::new())).await? {
        MessageResponse::ListServicesResponse(list) => {
            let names = list.service.iter().map(|service| service.name.clone());
            Ok(names.filter(|name| !name.starts_with("grpc.")).collect())
        }
        _ => Err(Error::internal("the server's reflection answered something else")),
    }
}

/// The schema of these services.
pub(crate) async fn schema(channel: &Channel, services: &[String]) -> Result<Schema, Error> {
    let mut schema = Schema::default();
    for name in services {
        let request = MessageRequest::FileContainingSymbol(name.clone());
        let MessageResponse::FileDescriptorResponse(files) = ask(channel, request).await? else {
            return Err(Error::internal("the server's reflection answered something else"));
        };
        for bytes in files.file_descriptor_proto.iter().take(MAX_FILES) {
            let file = FileDescriptorProto::decode_from_slice(bytes)
                .map_err(|error| Error::internal(format!("the server's schema does not decode: {error}")))?;
            schema.add(&file, name);
        }
    }
    Ok(schema)
}

/// The method at a path, as reflection describes it.
pub(crate) async fn method(channel: &Channel, service: &str, method: &str) -> Result<Option<Method>, Error> {
    let schema = schema(channel, &[service.to_owned()]).await?;
    let found = schema.services.iter().flat_map(|s| &s.methods).find(|m| m.name == method);
    Ok(found.map(|found| Method::dynamic(format!("/{service}/{method}"), found.kind)))
}

impl Schema {
    fn add(&mut self, file: &FileDescriptorProto, wanted: &str) {
        let package = file.package.as_deref().unwrap_or_default();
        for service in &file.service {
            let name = join(package, service.name.as_deref());
            if name != wanted || self.services.iter().any(|known| known.name == name) {
                continue;
            }
            let method =
                |method: &buffa_descriptor::generated::descriptor::MethodDescriptorProto| MethodInfo {
                    name: method.name.clone().unwrap_or_default(),
                    kind: match (
                        method.client_streaming.unwrap_or(false),
                        method.server_streaming.unwrap_or(false),
                    ) {
                        (false, false) => Kind::Unary,
                        (false, true) => Kind::ServerStream,
                        (true, false) => Kind::ClientStream,
                        (true, true) => Kind::BidiStream,
                    },
                    input: bare(method.input_type.as_deref()),
                    output: bare(method.output_type.as_deref()),
                };
            self.services.push(Service { methods: service.method.iter().map(method).collect(), name });
        }
        for message in &file.message_type {
            self.add_message(package, message);
        }
        for item in &file.enum_type {
            self.add_enum(package, item);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = join(scope, message.name.as_deref());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for item in &message.enum_type {
            self.add_enum(&name, item);
        }
        let maps: Vec<&DescriptorProto> = message
            .nested_type
            .iter()
            .filter(|m| m.options.as_option().is_some_and(|o| o.map_entry == Some(true)))
            .collect();
        let fields = message.field.iter().map(|field| {
            let of = field.type_name.as_deref().unwrap_or_default();
            let map =
                maps.iter().find(|m| of.ends_with(&format!(".{}", m.name.as_deref().unwrap_or_default())));
            let kind = match map {
                Some(entry) => {
                    let part = |at: usize| entry.field.get(at).map(scalar).unwrap_or_default();
                    format!("map<{}, {}>", part(0), part(1))
                }
                None if field.label == Some(Label::LABEL_REPEATED) => format!("repeated {}", scalar(field)),
                None => scalar(field),
            };
            Field {
                number: field.number.unwrap_or_default(),
                json: field
                    .json_name
                    .clone()
                    .unwrap_or_else(|| camel(field.name.as_deref().unwrap_or_default())),
                name: field.name.clone().unwrap_or_default(),
                kind,
            }
        });
        self.messages.insert(name, fields.collect());
    }

    fn add_enum(&mut self, scope: &str, item: &EnumDescriptorProto) {
        let values = item.value.iter().map(|value| value.name.clone().unwrap_or_default()).collect();
        self.enums.insert(join(scope, item.name.as_deref()), values);
    }

    /// The messages that a service's methods mention, and those that these mention, in reading order.
    pub(crate) fn mentioned(&self, service: &Service) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        let mut queue: Vec<&str> = service
            .methods
            .iter()
            .flat_map(|method| [method.input.as_str(), method.output.as_str()])
            .rev()
            .collect();
        while let Some(name) = queue.pop() {
            let Some((name, fields)) = self.messages.get_key_value(name) else { continue };
            if order.contains(&name.as_str()) {
                continue;
            }
            order.push(name);
            let words = fields.iter().rev().flat_map(|field| field.kind.split([' ', '<', '>', ',']));
            queue.extend(words.filter(|word| self.messages.contains_key(*word)));
        }
        order
    }
}

/// `orderId` of `order_id`, as protobuf has it where nothing else is said.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

fn join(scope: &str, name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    if scope.is_empty() { name.into() } else { format!("{scope}.{name}") }
}

fn bare(name: Option<&str>) -> String {
    name.unwrap_or_default().trim_start_matches('.').into()
}

fn scalar(field: &buffa_descriptor::generated::descriptor::FieldDescriptorProto) -> String {
    match field.r#type {
        Some(Type::TYPE_MESSAGE | Type::TYPE_ENUM | Type::TYPE_GROUP) => bare(field.type_name.as_deref()),
        Some(kind) => {
            let name = formic_rpc::rt::buffa::Enumeration::proto_name(&kind);
            name.trim_start_matches("TYPE_").to_ascii_lowercase()
        }
        None => String::new(),
    }
}
