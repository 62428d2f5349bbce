//! connectrpc alone: `serve`, or `call --server ADDRESS --protocol connect|grpc --connections N [--deadline-ms N] …`.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{ClientConfig, Http2Connection, SharedHttp2Connection};
use connectrpc::{
    CompressionRegistry, Encodable, Protocol, RequestContext, Response, Router, Server, ServiceRequest,
    ServiceResult,
};

#[path = "../../arguments.rs"]
mod arguments;
#[path = "../../../src/cpu.rs"]
mod cpu;
#[path = "../../../src/load.rs"]
mod load;

mod proto {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

use arguments::Arguments;
use proto::bench::v1::{EchoRequest, EchoResponse, EchoService, EchoServiceClient, EchoServiceExt};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Echo;

impl EchoService for Echo {
    async fn echo<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, EchoRequest>,
    ) -> ServiceResult<impl Encodable<EchoResponse> + Send + use<'a>> {
        Response::ok(EchoResponse { payload: request.payload.to_vec(), ..Default::default() })
    }
}

struct Caller(EchoServiceClient<SharedHttp2Connection>);

impl load::Caller for Caller {
    async fn call(&mut self) -> Result<(), String> {
        let request = EchoRequest { payload: load::PAYLOAD.to_vec(), ..Default::default() };
        let response = self.0.echo(request).await.map_err(|error| error.to_string())?;
        load::check(response.view().payload)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::read()?;
    if arguments.serves() { serve().await } else { call(&arguments).await }
}

async fn serve() -> Result<(), Failure> {
    let bound = Server::bind("127.0.0.1:0").await?;
    println!("{}", bound.local_addr()?);
    let router = Arc::new(Echo).register(Router::new());
    tokio::select! {
        outcome = bound.serve(router) => outcome,
        () = load::parent_gone() => Ok(()),
    }
}

async fn call(arguments: &Arguments) -> Result<(), Failure> {
    let protocol = match arguments.get("protocol")? {
        "connect" => Protocol::Connect,
        "grpc" => Protocol::Grpc,
        other => return Err(format!("there is no protocol {other:?}").into()),
    };
    let mut config = ClientConfig::new(format!("http://{}", arguments.get("server")?).parse()?)
        .with_protocol(protocol)
        // As Formic does: small messages on a loopback gain nothing.
        .with_compression(CompressionRegistry::new());
    if let Ok(millis) = arguments.number("deadline-ms") {
        config = config.with_default_timeout(Duration::from_millis(millis as u64));
    }
    // One client is one connection.
    let connections: Vec<SharedHttp2Connection> = (0..arguments.number("connections")?)
        .map(|_| Http2Connection::lazy_plaintext(config.base_uri().clone()).shared(1024))
        .collect();
    let caller = |index: usize| {
        let transport = connections[index % connections.len()].clone();
        Caller(EchoServiceClient::new(transport, config.clone()))
    };
    println!("{}", load::run(arguments.plan()?, caller).await?);
    Ok(())
}
