//! Generated code under the strictest lints that a user may set: nothing of it may warn.
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    missing_copy_implementations,
    unreachable_pub,
    unsafe_code,
    unused_qualifications,
    unused_lifetimes,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    unused_results,
    unnameable_types,
    variant_size_differences,
    non_ascii_idents
)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]

include!(concat!(env!("OUT_DIR"), "/formic.rs"));

/// The same code somewhere else in a crate: its paths must be relative.
pub mod elsewhere {
    /// And a binary, or a private module, where nothing generated is reachable.
    mod private {
        include!(concat!(env!("OUT_DIR"), "/formic.rs"));
    }

    /// Uses the private copy.
    #[must_use]
    pub const fn name() -> &'static str {
        private::codegen::v1::ECHO_NAME
    }
}

// What the code below was told to take everything from.
use formic_rpc::rt;

/// Code that was generated into a directory, as committed code is.
pub mod committed {
    include!(concat!(env!("OUT_DIR"), "/committed/formic.rs"));
}
