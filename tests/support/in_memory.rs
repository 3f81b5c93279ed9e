//! A folder for a journal: on a slow disk a MOVE goes on without its record, and a test would wait for it in vain.

use tempfile::TempDir;

/// In memory, if there is a place for that. (tests/run removes what killed tests leave there.)
pub fn folder() -> TempDir {
    let run = std::env::temp_dir().file_name().map(|name| name.to_string_lossy().into_owned());
    let prefix = format!("{}-", run.unwrap_or_default());
    let in_memory = tempfile::Builder::new().prefix(&prefix).tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
