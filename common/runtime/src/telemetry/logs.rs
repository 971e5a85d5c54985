//! The subscriber of `tracing`.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::mask::Stderr;
use crate::config::{LogFormat, TelemetryConfig};

pub(super) fn init(config: &TelemetryConfig) {
    // Checked when the configuration was read; a filter that fails here falls back to the default.
    let filter = EnvFilter::builder()
        .parse(&config.filter)
        .unwrap_or_else(|_e| EnvFilter::new("info"));
    let lines = match config.format {
        LogFormat::Text => fmt::layer().with_writer(Stderr).with_ansi(is_terminal()).boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(Stderr)
            .boxed(),
    };
    // A second call, as in tests, keeps the first subscriber.
    drop(
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .try_init(),
    );
}

fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
