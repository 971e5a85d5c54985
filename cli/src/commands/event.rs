//! `millrace event send FILE`.

use serde_json::Value;

use crate::args::EventCommand;
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::input::read_text;
use crate::output::{Table, show, text};

pub(super) async fn run(command: EventCommand, client: &Client) -> Outcome {
    let EventCommand::Send { file, read } = command;
    let events: Value = serde_json::from_str(&read_text(&file)?).map_err(|e| {
        let message = format!("{} is not JSON: {e}", file.display());
        Failure::new(Exit::Usage, message).hint("an event looks like this: {\"specversion\": \"1.0\", \"id\": \"1\", \"source\": \"/me\", \"type\": \"com.example.happened\"}")
    })?;
    let answer = client.post("/api/v1/events", &events).await?;
    show(read.output, &answer.body, |body| {
        let mut table = Table::new(["ACCEPTED", "DUPLICATES"]);
        table.row([text(body, "/accepted"), text(body, "/duplicates")]);
        table.text("no events")
    })
}
