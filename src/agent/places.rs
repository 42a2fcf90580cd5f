//! Where the agent listens unless told otherwise.

use std::path::PathBuf;

use crate::Result;
use crate::store::default_folder;

/// Of whoever is not root, in the folder of the user's sockets or else of the store.
const NAME: &str = "txprof.sock";

/// The usual control socket: `/run/txprof/txprof.sock` for root; for others `$XDG_RUNTIME_DIR/txprof.sock`, else
/// `txprof.sock` in the usual folder of the store.
///
/// Fails with [`NotFound`](crate::ErrorKind::NotFound) for a user without a home.
pub fn default_socket() -> Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    socket_of(nix::unistd::geteuid().is_root(), runtime, default_folder)
}

/// That of root, or of a user with this `XDG_RUNTIME_DIR`, which does not count unless it is an absolute path
/// (XDG Base Directory Specification 0.8).
fn socket_of(
    is_root: bool,
    runtime: Option<PathBuf>,
    store: impl Fn() -> Result<PathBuf>,
) -> Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/run/txprof").join(NAME));
    }
    let folder = runtime.filter(|path| path.is_absolute()).map_or_else(store, Ok);
    folder.map(|folder| folder.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root's socket does not depend on who became root, that of others follows their variable.
    #[test]
    fn the_usual_socket_follows_the_user() {
        let of = |is_root, runtime: Option<&str>| {
            let socket = socket_of(is_root, runtime.map(PathBuf::from), || Ok(PathBuf::from("/s/txprof")));
            socket.expect("there is a home").display().to_string()
        };
        assert_eq!(of(true, Some("/r")), "/run/txprof/txprof.sock");
        assert_eq!(of(false, Some("/r")), "/r/txprof.sock");
        assert_eq!(of(false, Some("r")), "/s/txprof/txprof.sock");
        assert_eq!(of(false, None), "/s/txprof/txprof.sock");
    }
}
