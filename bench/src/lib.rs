//! What the programs of the bench share, the peers' included: they take these files by path, because a
//! dependency would bring this workspace into theirs.

pub mod cpu;
pub mod load;
pub mod record;
pub mod storm;
