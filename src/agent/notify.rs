//! Tells systemd how the agent is: the protocol of sd_notify(3), which is a datagram.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state`, as `READY=1`, to who started the agent, if that wants to know.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // Whether anybody listens is not the agent's concern.
    let _nobody_listens = send(path.as_encoded_bytes(), state);
}

fn send(path: &[u8], state: &str) -> std::io::Result<usize> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            use std::os::unix::ffi::OsStrExt as _;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?
        }
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state arrives, at a path and at an abstract name.
    #[test]
    fn state_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("txprof-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("a name");
        let sockets = [UnixDatagram::bind(&path), UnixDatagram::bind_addr(&abstract_name)];
        let paths = [path.to_str().expect("plain").to_owned(), format!("@{name}")];
        for (socket, path) in sockets.into_iter().zip(paths) {
            let socket = socket.expect("it is bound");
            send(path.as_bytes(), "READY=1").expect("it is sent");
            let mut buffer = [0; 16];
            assert_eq!(socket.recv(&mut buffer).ok().map(|length| &buffer[..length]), Some(&b"READY=1"[..]));
        }
    }
}
