//! Both ends of the storm: `serve HOST:PORT`, or `call HOST:PORT CALLS CALLERS SEED`. Each ends with the bench too.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its one line of output is what it is for")]

use std::io::Write;
use std::process::ExitCode;

use formic_bench::load::parent_gone;
use formic_bench::storm::{self, Plan, server::Storm};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(line) => {
            // Of a server nobody may read more than where it is.
            drop(writeln!(std::io::stdout(), "{line}"));
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<String, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    match arguments {
        ["serve", at] => {
            let storm = Storm::default();
            let (running, endpoint) =
                storm.serve(&at.parse().map_err(|error| format!("{at:?}: {error}"))?).await?;
            println!("{endpoint}");
            parent_gone().await;
            // What callers left behind that were killed: silent connections are found by pings.
            for _ in 0..400 {
                if storm.open() == 0 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            let open = storm.open();
            running.stop(std::time::Duration::from_secs(1)).await;
            if open == 0 {
                Ok("every handler ended".into())
            } else {
                Err(format!("{open} handlers are left"))
            }
        }
        ["call", at, calls, callers, seed] => {
            let at = at.parse().map_err(|error| format!("{at:?}: {error}"))?;
            let plan = Plan { calls: number(calls)?, callers: number(callers)?, seed: number(seed)? };
            storm::run(at, plan, true).await
        }
        _ => Err("expected serve HOST:PORT, or call HOST:PORT CALLS CALLERS SEED".into()),
    }
}
