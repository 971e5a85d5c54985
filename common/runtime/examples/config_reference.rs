//! Prints the table of all variables: `cargo run -q --example config_reference`.

#[expect(clippy::print_stdout, reason = "printing is what it is for")]
fn main() {
    print!("{}", millrace_runtime::config::render_reference());
}
