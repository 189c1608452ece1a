//! The measured version of this project.

use std::process::Command;

/// Returns the commit, with a mark if files differ from it. Pages of figures are ignored: the benchmarks write them.
/// Returns `None` outside of a repository.
pub(crate) fn describe() -> Option<String> {
    let commit = git(&["describe", "--always"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}, changed") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
