//! tonic alone: `serve`, or `call --server ADDRESS --connections N …`.

use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

#[path = "../../arguments.rs"]
mod arguments;
#[path = "../../../src/cpu.rs"]
mod cpu;
#[path = "../../../src/load.rs"]
mod load;

mod proto {
    tonic::include_proto!("bench.v1");
}

use arguments::Arguments;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::echo_service_client::EchoServiceClient;
use proto::echo_service_server::{EchoService, EchoServiceServer};
use proto::stream_service_client::StreamServiceClient;
use proto::stream_service_server::{StreamService, StreamServiceServer};
use proto::{EchoRequest, EchoResponse, SendRequest};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Echo;

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        Ok(Response::new(EchoResponse { payload: request.into_inner().payload }))
    }
}

struct Stream;

#[tonic::async_trait]
impl StreamService for Stream {
    type SendStream = BoxStream<'static, Result<EchoResponse, Status>>;

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<Self::SendStream>, Status> {
        let SendRequest { size, one_by_one } = request.into_inner();
        let item = EchoResponse { payload: vec![7; size as usize] };
        if !one_by_one {
            return Ok(Response::new(futures::stream::repeat_with(move || Ok(item.clone())).boxed()));
        }
        // Somebody else makes them, and each is waited for.
        let (sender, mut items) = tokio::sync::mpsc::channel(1);
        let mut maker = tokio::task::JoinSet::new();
        maker.spawn(async move { while sender.send(Ok(item.clone())).await.is_ok() {} });
        let waited_for = futures::stream::poll_fn(move |cx| {
            let _as_long_as_the_stream = &maker;
            items.poll_recv(cx)
        });
        Ok(Response::new(waited_for.boxed()))
    }
}

/// Reads a stream.
struct Reading {
    client: StreamServiceClient<Channel>,
    request: SendRequest,
    stream: Option<tonic::Streaming<EchoResponse>>,
}

impl load::Caller for Reading {
    async fn call(&mut self) -> Result<(), String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let answer = self.client.send(self.request).await;
                none.insert(answer.map_err(|error| error.to_string())?.into_inner())
            }
        };
        match stream.message().await {
            Ok(Some(item)) if item.payload.len() == self.request.size as usize => Ok(()),
            Ok(Some(item)) => Err(format!("{} bytes came", item.payload.len())),
            Ok(None) => Err("the stream ended".into()),
            Err(error) => {
                // Its HTTP/2 gives a connection up whose frames are many and short; the next call makes another.
                self.stream = None;
                Err(error.to_string())
            }
        }
    }
}

struct Caller(EchoServiceClient<Channel>);

impl load::Caller for Caller {
    async fn call(&mut self) -> Result<(), String> {
        let request = EchoRequest { payload: load::PAYLOAD.to_vec() };
        let response = self.0.echo(request).await.map_err(|error| error.to_string())?;
        load::check(&response.get_ref().payload)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::read()?;
    if arguments.serves() { serve().await } else { call(&arguments).await }
}

async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    // What the server would set itself if it were given an address: small answers go out at once.
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .add_service(EchoServiceServer::new(Echo))
        .add_service(StreamServiceServer::new(Stream));
    server.serve_with_incoming_shutdown(incoming, load::parent_gone()).await?;
    Ok(())
}

async fn call(arguments: &Arguments) -> Result<(), Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{}", arguments.get("server")?))?;
    // One channel is one connection.
    let mut connections = Vec::new();
    for _ in 0..arguments.number("connections")? {
        connections.push(endpoint.connect().await?);
    }
    if arguments.get("stream").is_ok() {
        let size = u32::try_from(arguments.number("stream")?)?;
        let request = SendRequest { size, one_by_one: arguments.get("one-by-one").is_ok() };
        let client = |index: usize| StreamServiceClient::new(connections[index % connections.len()].clone());
        let reading = |index| Reading { client: client(index), request, stream: None };
        println!("{}", load::run(arguments.plan()?, reading).await?);
        return Ok(());
    }
    let caller =
        |index: usize| Caller(EchoServiceClient::new(connections[index % connections.len()].clone()));
    println!("{}", load::run(arguments.plan()?, caller).await?);
    Ok(())
}
