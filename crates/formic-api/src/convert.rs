//! Between the words of floor 0 and their messages.

use formic_core::{Endpoint, Error, Instance, InstanceId, Kind, RpcMethod, RpcService, ServiceName};

use crate::registry::v1 as pb;

/// For the wire.
#[must_use]
pub fn instance_to_pb(instance: &Instance) -> pb::Instance {
    pb::Instance {
        id: instance.id.as_str().into(),
        service: instance.service.as_str().into(),
        version: instance.version.clone(),
        endpoint: instance.endpoint.to_string(),
        metadata: instance.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        rpc: instance.rpc.iter().map(service_to_pb).collect(),
        ..Default::default()
    }
}

fn service_to_pb(service: &RpcService) -> pb::RpcService {
    let method = |method: &RpcMethod| pb::RpcMethod {
        name: method.name.clone(),
        kind: kind_to_pb(method.kind).into(),
        idempotent: method.idempotent,
        safe: method.safe,
        ..Default::default()
    };
    pb::RpcService {
        name: service.name.clone(),
        methods: service.methods.iter().map(method).collect(),
        ..Default::default()
    }
}

fn kind_to_pb(kind: Kind) -> pb::MethodKind {
    match kind {
        Kind::Unary => pb::MethodKind::METHOD_KIND_UNARY,
        Kind::ServerStream => pb::MethodKind::METHOD_KIND_SERVER_STREAM,
        Kind::ClientStream => pb::MethodKind::METHOD_KIND_CLIENT_STREAM,
        Kind::BidiStream => pb::MethodKind::METHOD_KIND_BIDI_STREAM,
    }
}

/// From the wire.
///
/// # Errors
/// `invalid_argument` that names the field at fault.
pub fn instance_from_pb(instance: pb::Instance) -> Result<Instance, Error> {
    let service = ServiceName::new(&instance.service).map_err(|error| fault("instance.service", &error))?;
    let endpoint: Endpoint = instance.endpoint.parse().map_err(|error| fault("instance.endpoint", &error))?;
    Ok(Instance {
        id: InstanceId::new(instance.id),
        service,
        version: instance.version,
        endpoint,
        metadata: instance.metadata.into_iter().collect(),
        rpc: instance.rpc.into_iter().map(service_from_pb).collect(),
    })
}

fn service_from_pb(service: pb::RpcService) -> RpcService {
    let method = |method: pb::RpcMethod| RpcMethod {
        kind: match method.kind.as_known() {
            Some(pb::MethodKind::METHOD_KIND_SERVER_STREAM) => Kind::ServerStream,
            Some(pb::MethodKind::METHOD_KIND_CLIENT_STREAM) => Kind::ClientStream,
            Some(pb::MethodKind::METHOD_KIND_BIDI_STREAM) => Kind::BidiStream,
            _ => Kind::Unary,
        },
        name: method.name,
        idempotent: method.idempotent,
        safe: method.safe,
    };
    RpcService { name: service.name, methods: service.methods.into_iter().map(method).collect() }
}

/// An error about one field of a request.
pub(crate) fn fault(field: &str, error: &dyn std::error::Error) -> Error {
    Error::invalid_argument(error.to_string()).with_field(field, error.to_string())
}
