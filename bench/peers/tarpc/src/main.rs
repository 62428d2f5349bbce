//! tarpc alone: `serve`, or `call --server ADDRESS --connections N …`.

use futures::StreamExt;
use tarpc::serde_transport::tcp;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context};
use tokio::task::JoinSet;

#[path = "../../arguments.rs"]
mod arguments;
#[path = "../../../src/cpu.rs"]
mod cpu;
#[path = "../../../src/load.rs"]
mod load;

use arguments::Arguments;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tarpc::service]
trait Echo {
    async fn echo(payload: Vec<u8>) -> Vec<u8>;
}

#[derive(Clone)]
struct Service;

impl Echo for Service {
    async fn echo(self, _: context::Context, payload: Vec<u8>) -> Vec<u8> {
        payload
    }
}

struct Caller(EchoClient);

impl load::Caller for Caller {
    async fn call(&mut self) -> Result<(), String> {
        let answer = self.0.echo(context::current(), load::PAYLOAD.to_vec()).await;
        load::check(&answer.map_err(|error| error.to_string())?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::read()?;
    if arguments.serves() { serve().await } else { call(&arguments).await }
}

async fn serve() -> Result<(), Failure> {
    let mut listener = tcp::listen("127.0.0.1:0", Bincode::default).await?;
    println!("{}", listener.local_addr());
    let mut connections = JoinSet::new();
    let serving = async {
        while let Some(transport) = listener.next().await {
            let Ok(transport) = transport else { continue };
            let _ = transport.get_ref().set_nodelay(true);
            connections.spawn(async move {
                // A task for each call, as its documentation has it.
                let mut calls = JoinSet::new();
                let mut responses = Box::pin(BaseChannel::with_defaults(transport).execute(Service.serve()));
                while let Some(response) = responses.next().await {
                    calls.spawn(response);
                    while calls.try_join_next().is_some() {}
                }
            });
        }
    };
    tokio::select! {
        () = serving => {}
        () = load::parent_gone() => {}
    }
    Ok(())
}

async fn call(arguments: &Arguments) -> Result<(), Failure> {
    let mut connections = Vec::new();
    for _ in 0..arguments.number("connections")? {
        let transport = tcp::connect(arguments.get("server")?, Bincode::default).await?;
        transport.get_ref().set_nodelay(true)?;
        connections.push(EchoClient::new(client::Config::default(), transport).spawn());
    }
    let caller = |index: usize| Caller(connections[index % connections.len()].clone());
    println!("{}", load::run(arguments.plan()?, caller).await?);
    Ok(())
}
