//! The ways to ask an instance whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use formic_client::{Client, Protocol};
use formic_core::{Code, Endpoint, Error, Kind, Method};
use formic_rpc::{Body, Call, Channel, Codec};
use formic_spec::{HumanDuration, Probe};
use formic_supervise::{Beside, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::fault::Fault;
use super::log::Line;
use crate::engine::Probing;

/// How much of a page is read, at least: more than any page of a probe should be.
const MOST_OF_A_PAGE: usize = 64 << 10;

/// How an instance is asked, with what is kept between one time and the next.
pub(crate) enum Way {
    /// `grpc.health.v1`. The last address and the way to it are kept, so that a probe does not dial anew.
    Grpc { client: Client, known: Option<(Endpoint, Channel)> },
    /// A page.
    Http,
    /// A connection.
    Tcp,
    /// A command beside it.
    Exec { command: Beside, process: Process },
    /// A line that it writes, and what is in it.
    Log(Line, String),
    /// Not at all.
    None,
    /// It cannot be asked: it is gone, or nothing says what to run.
    Never,
}

impl Way {
    /// For an instance. `client` is for those of Formic; any other program speaks plain gRPC.
    pub(crate) fn of(probing: &Probing, process: Option<Process>, client: &Client) -> Self {
        match probing.health.ready {
            Probe::Grpc => {
                let foreign = || {
                    let config = formic_client::Config {
                        protocol: Protocol::Grpc,
                        ..formic_client::Config::default()
                    };
                    Client::without_registry(config)
                };
                let client = if probing.port.is_some() { foreign() } else { client.clone() };
                Self::Grpc { client, known: None }
            }
            Probe::Http => Self::Http,
            Probe::Tcp => Self::Tcp,
            Probe::Exec => match (probing.command.clone(), process) {
                (Some(command), Some(process)) => Self::Exec { command, process },
                _ => Self::Never,
            },
            Probe::Log => {
                let files = [probing.output.stdout.clone(), probing.output.stderr.clone()];
                Self::Log(Line::new(files, &probing.health.line), probing.health.line.clone())
            }
            Probe::None => Self::None,
        }
    }

    /// Whether there is an answer whose time says something of the instance.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self, Self::Log(..) | Self::None | Self::Never)
    }

    /// Whether it has to be known where the instance answers.
    pub(super) fn needs_endpoint(&self) -> bool {
        matches!(self, Self::Grpc { .. } | Self::Http | Self::Tcp)
    }

    /// Asks once.
    ///
    /// # Errors
    /// Why it is not ready.
    pub(super) async fn ask(
        &mut self,
        endpoint: Option<Endpoint>,
        path: &str,
        limit: Duration,
    ) -> Result<(), Fault> {
        match (self, endpoint) {
            (Self::Grpc { client, known }, Some(endpoint)) => {
                match serving(client, known, endpoint, limit).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Fault::new("its health service says that it is not serving")),
                    Err(error) if error.code() == Code::DeadlineExceeded => Err(timed_out(limit)),
                    Err(error) => Err(Fault::call(&error)),
                }
            }
            (Self::Tcp, Some(Endpoint::Tcp(addr))) => match TcpStream::connect(addr).await {
                Ok(_) => Ok(()),
                Err(error) => Err(Fault::connect(addr, &error)),
            },
            (Self::Http, Some(Endpoint::Tcp(addr))) => http(addr, path, limit).await,
            (Self::Exec { command, process }, _) => match command.run(process, limit).await {
                Ok(answer) if answer.success() => Ok(()),
                Ok(answer) => Err(Fault::command(&answer)),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(timed_out(limit)),
                Err(error) => Err(Fault::no_command(&error)),
            },
            (Self::Log(line, text), _) => match line.was_written().await {
                true => Ok(()),
                false => Err(Fault::new(format!("it has not written the line {text:?} yet"))),
            },
            (Self::None, _) => Ok(()),
            (Self::Never, _) => Err(Fault::new("nothing says how to ask it")),
            (_, None) => Err(Fault::new("it has not announced itself")),
            (_, Some(endpoint)) => Err(Fault::new(format!("it cannot be asked at {endpoint}"))),
        }
    }
}

/// No answer came.
pub(super) fn timed_out(limit: Duration) -> Fault {
    Fault::new(format!("timed out after {}", HumanDuration::from(limit)))
}

/// `grpc.health.v1`: an empty request asks for the whole server, and `08 01` is SERVING. Two fixed
/// messages of a few bytes are no reason to generate code for them here.
async fn serving(
    client: &Client,
    known: &mut Option<(Endpoint, Channel)>,
    endpoint: Endpoint,
    limit: Duration,
) -> Result<bool, Error> {
    let method = Method::new("/grpc.health.v1.Health/Check", Kind::Unary);
    let mut call = Call::new(method, Codec::Proto, Body::Message(bytes::Bytes::new()));
    call.deadline = Some(Instant::now() + limit);
    let channel = match known {
        Some((known, channel)) if *known == endpoint => channel.clone(),
        _ => {
            let channel = client.at(endpoint.clone());
            known.insert((endpoint, channel)).1.clone()
        }
    };
    let answer = channel.call(call).await?;
    Ok(answer.body.into_message()?[..] == [0x08, 0x01])
}

/// A GET whose status is 2xx or 3xx. What else comes is read: a program that cannot send the rest of its page,
/// because nobody is there any more, writes of that to its log.
async fn http(addr: SocketAddr, path: &str, limit: Duration) -> Result<(), Fault> {
    let patience = Instant::now() + limit / 2;
    let mut stream = TcpStream::connect(addr).await.map_err(|error| Fault::connect(addr, &error))?;
    let path = if path.is_empty() { "/" } else { path };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: formic-probe\r\nConnection: close\r\n\r\n"
    );
    let cut_off = |error: std::io::Error| Fault::cut_off(&error);
    stream.write_all(request.as_bytes()).await.map_err(cut_off)?;
    let mut page = Vec::with_capacity(1024);
    // "HTTP/1.1 200" is all that matters.
    while page.len() < 12 {
        if stream.read_buf(&mut page).await.map_err(cut_off)? == 0 {
            let nothing = cut_off(std::io::ErrorKind::UnexpectedEof.into());
            return Err(if page.is_empty() { nothing } else { Fault::page(&page) });
        }
    }
    let fine = page.starts_with(b"HTTP/1.") && matches!(page[9], b'2' | b'3');
    let mut ended = false;
    let rest = async {
        while !is_whole(&page) && page.len() < MOST_OF_A_PAGE {
            // However it ends: the answer is known.
            if !matches!(stream.read_buf(&mut page).await, Ok(1..)) {
                ended = true;
                break;
            }
        }
    };
    // A page without an end is not waited for.
    let _ = tokio::time::timeout_at(patience, rest).await;
    // One whose head has none is no page, whatever it began with.
    let has_head =
        ended || [&b"\r\n\r\n"[..], b"\n\n"].iter().any(|end| page.windows(end.len()).any(|at| at == *end));
    if fine && has_head { Ok(()) } else { Err(Fault::page(&page)) }
}

/// Whether nothing is to come after this, as far as the page says itself. Most end with their connection.
fn is_whole(page: &[u8]) -> bool {
    let Some(head) = page.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let body = page.len() - head - 4;
    let text = String::from_utf8_lossy(&page[..head]);
    let length = text.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        let value = value.trim().parse::<usize>();
        name.eq_ignore_ascii_case("content-length").then_some(value)?.ok()
    });
    length.is_some_and(|length| body >= length)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A program that answers one request with these parts, and what it saw of the connection's end.
    async fn asked(
        parts: Vec<Vec<u8>>,
        hang_up: bool,
        limit: Duration,
    ) -> (Result<(), String>, std::io::Result<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let program = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            for part in parts {
                stream.write_all(&part).await?;
                // The next part goes out by itself.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if hang_up {
                stream.shutdown().await?;
            }
            stream.read(&mut request).await
        };
        let (answer, seen) = tokio::join!(http(addr, "", limit), program);
        (answer.map_err(|fault| fault.to_string()), seen)
    }

    #[tokio::test]
    async fn a_page_is_read_to_its_end_so_that_its_program_sees_no_broken_connection() {
        let head = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n".to_vec();
        let parts = vec![head, vec![b'x'; 20_000], vec![b'y'; 20_000]];
        let (ready, seen) = asked(parts, true, LIMIT).await;
        assert_eq!(ready, Ok(()));
        assert_eq!(seen.unwrap(), 0, "a connection that is reset is an error here");
    }

    #[tokio::test]
    async fn a_page_of_a_known_length_ends_there_and_one_without_an_end_is_not_waited_for() {
        let known = b"HTTP/1.1 302 Found\r\ncontent-Length: 3\r\n\r\nabc".to_vec();
        let (ready, seen) = asked(vec![known], false, LIMIT).await;
        assert_eq!((ready, seen.unwrap()), (Ok(()), 0));
        let endless = b"HTTP/1.1 200 OK\r\n\r\nabc".to_vec();
        assert_eq!(asked(vec![endless], false, Duration::from_secs(1)).await.0, Ok(()));
        let endless_head = b"HTTP/1.1 200 OK\r\nServer: x\r\n".to_vec();
        let asked_in_vain = asked(vec![endless_head.clone()], false, Duration::from_secs(1)).await.0;
        assert_eq!(asked_in_vain, Err("HTTP 200, and the head of the answer has no end".into()));
        assert_eq!(asked(vec![endless_head], true, LIMIT).await.0, Ok(()), "a short answer, and its end");
        let failed = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec();
        assert_eq!(asked(vec![failed], false, LIMIT).await.0, Err("HTTP 503".into()));
        let nothing = "it closed the connection without an answer";
        assert_eq!(asked(vec![], true, LIMIT).await.0, Err(nothing.into()));
    }

    #[test]
    fn a_length_that_says_nothing_is_none() {
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"));
    }
}
