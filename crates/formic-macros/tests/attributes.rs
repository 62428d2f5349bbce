//! The attributes, over stand-ins for what the facade gives them to call.

extern crate self as formic;

use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};

/// Stands in for the facade's runtime: the futures here are ready at once.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("these futures do not wait"),
    }
}

/// Tells an error from a success.
pub trait Outcome {
    fn exit(self) -> ExitCode;
}

impl Outcome for Result<(), String> {
    fn exit(self) -> ExitCode {
        self.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
    }
}

pub fn __rt_main<F: Future<Output: Outcome>>(future: F) -> ExitCode {
    ready(future).exit()
}

pub fn __rt_test<F: Future>(future: F) -> F::Output {
    ready(future)
}

mod program {
    /// Its error type is known from the signature alone.
    #[formic_macros::main]
    pub(super) async fn main() -> Result<(), String> {
        let three: u8 = "3".parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
        std::future::ready(()).await;
        Err(format!("always {three}"))
    }
}

#[test]
fn main_returns_the_exit_code_of_its_error() {
    assert_eq!(format!("{:?}", program::main()), format!("{:?}", ExitCode::FAILURE));
}

#[formic_macros::test]
async fn a_test_runs() {
    assert_eq!(std::future::ready(1).await, 1);
}

#[formic_macros::test]
async fn a_test_may_return_a_result() -> Result<(), std::num::ParseIntError> {
    let one: u8 = "1".parse()?;
    assert_eq!(one, 1);
    Ok(())
}

#[formic_macros::test]
#[should_panic(expected = "on purpose")]
async fn other_attributes_stay() {
    panic!("on purpose");
}
