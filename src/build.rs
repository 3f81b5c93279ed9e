//! Before the build: which commit this is, for `imapmove --version`.

use std::process::Command;

fn main() {
    // A package's own build, which has no repository, says it itself.
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let said = std::env::var("BUILD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = said.or_else(of_the_repository).unwrap_or_else(|| "unknown".to_string());
    println!("cargo:rustc-env=BUILD_COMMIT={commit}");
}

fn of_the_repository() -> Option<String> {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(git.stdout).ok().filter(|_| git.status.success())?;
    Some(commit.trim().to_string())
}
