//! One application for tests that only look at it: started by the first, stopped after the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::app::App;

/// The place of a shared application. A static of its own would never be dropped, and leave processes behind.
#[derive(Debug)]
pub struct Shared(Mutex<Weak<App>>);

impl Shared {
    /// Nothing runs yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is for statics, and Default is not const")]
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The running application, or a new one.
    pub fn get(&self, start: impl FnOnce() -> App) -> Arc<App> {
        // A start that failed in another test may succeed in this one.
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(app) = place.upgrade() {
            return app;
        }
        let app = Arc::new(start());
        *place = Arc::downgrade(&app);
        app
    }
}
