//! What the loopback carries: the frames of a stream of short messages, written by one thread from memory and read by another,
//! which looks at nothing but their lengths. No message is made or read, so who makes messages has all that to do besides.
#![expect(clippy::print_stdout, reason = "its one line of output is what it is for")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use formic_bench::cpu;

/// What is written, and read, at a time.
const ROOM: usize = 128 << 10;

/// Length and type, whose stream, flags.
const HEAD: usize = 9;

/// The payload's own tag and length.
const FIELD: usize = 2;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", size] => serve(size.parse()?),
        ["call", address, warm_up, measured] => {
            call(address, Duration::from_millis(warm_up.parse()?), Duration::from_millis(measured.parse()?))
        }
        _ => Err("expected `serve SIZE` or `call ADDRESS WARM-UP-MS MEASURED-MS`".into()),
    }
}

/// Serves one caller after the other, as long as its input is open.
fn serve(size: usize) -> Outcome {
    let length = u32::try_from(size + FIELD + 1)?.to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], 3, 0, 0, 0, 1, 0];
    frame.resize(HEAD + FIELD + size, 7);
    let frames = frame.repeat(ROOM / frame.len());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            while caller.write_all(&frames).is_ok() {}
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn call(address: &str, warm_up: Duration, measured: Duration) -> Outcome {
    let mut socket = TcpStream::connect(address)?;
    let mut room = vec![0; ROOM];
    let (mut held, mut answered) = (0, 0_u64);
    let mut until = |end: Instant| -> Result<u64, Box<dyn std::error::Error>> {
        let mut count = 0;
        while Instant::now() < end {
            let read = socket.read(&mut room[held..])?;
            if read == 0 {
                return Err("the server is gone".into());
            }
            let (mut rest, whole) = (&room[..held + read], held + read);
            while let Some(&[a, b, c, ..]) = rest.first_chunk::<HEAD>()
                && let Some((_, later)) =
                    rest.split_at_checked(HEAD - 1 + u32::from_be_bytes([0, a, b, c]) as usize)
            {
                (rest, count) = (later, count + 1);
            }
            held = rest.len();
            room.copy_within(whole - held..whole, 0);
        }
        answered += count;
        Ok(count)
    };
    let start = Instant::now() + warm_up;
    until(start)?;
    let before = cpu::used(std::process::id());
    let count = until(start + measured)?;
    let used = cpu::used(std::process::id()).zip(before).map(|(after, before)| after - before);
    let rate = count as f64 / measured.as_secs_f64();
    let cpu = used.map_or("null".into(), |used| format!("{:.3}", used.as_secs_f64() * 1e6 / count as f64));
    println!(
        "{{\"answered\":{answered},\"errors\":0,\"first_error\":null,\"rps\":{rate:.1},\"p50_us\":0.0,\"p99_us\":0.0,\
         \"client_cpu_us\":{cpu}}}"
    );
    Ok(())
}
