//! What `#[formic::main]` and `#[formic::test]` expand to.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use crate::Failure;

/// How long tasks that ignore their cancellation may hold up the end of the process.
const LINGER: Duration = Duration::from_secs(2);

/// The result of a `main`: nothing, or a failure with an exit code.
pub trait Outcome {
    /// Ends the process with this.
    fn exit(self) -> ExitCode;
}

impl Outcome for () {
    fn exit(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl Outcome for Result<(), Failure> {
    #[expect(clippy::print_stderr, reason = "the last words of a process, after its logger is gone")]
    fn exit(self) -> ExitCode {
        match self {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("error: {failure}");
                ExitCode::from(failure.exit_code())
            }
        }
    }
}

/// Runs `main` on a multi-threaded runtime. Called by `#[formic::main]`.
#[doc(hidden)]
#[expect(clippy::expect_used, reason = "a process without threads or epoll cannot do anything")]
pub fn __rt_main<F>(future: F) -> ExitCode
where
    F: Future,
    F::Output: Outcome,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("formic")
        .build()
        .expect("the system gives threads and an event queue");
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(LINGER);
    outcome.exit()
}

/// Runs a test on one thread with a paused clock. Called by `#[formic::test]`; a dev-dependency on
/// `formic-testing` turns it on.
#[cfg(feature = "testing")]
#[doc(hidden)]
#[expect(clippy::expect_used, reason = "a process without an event queue cannot test anything")]
pub fn __rt_test<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("the system gives an event queue")
        .block_on(future)
}
