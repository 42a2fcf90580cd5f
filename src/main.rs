//! The `txprof` program: everything is in [`txprof::cli`].

fn main() -> std::process::ExitCode {
    txprof::cli::run(std::env::args_os()).into()
}
