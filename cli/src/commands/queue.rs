//! `millrace queue list|get|pause|resume`.

use serde_json::{Value, json};

use crate::args::{QueueArgs, QueueCommand};
use crate::client::{Client, segment};
use crate::failure::Outcome;
use crate::output::{Table, items, show, text};

pub(super) async fn run(command: QueueCommand, client: &Client) -> Outcome {
    match command {
        QueueCommand::List { read } => {
            let list = client.get("/api/v1/queues").await?;
            show(read.output, &list, |list| table(items(list)))
        }
        QueueCommand::Get(QueueArgs { queue, read }) => {
            let queue = client.get(&format!("/api/v1/queues/{}", segment(&queue))).await?;
            show(read.output, &queue, |queue| table(std::slice::from_ref(queue)))
        }
        QueueCommand::Pause(args) => change("pause", &args, client).await,
        QueueCommand::Resume(args) => change("resume", &args, client).await,
    }
}

async fn change(action: &str, args: &QueueArgs, client: &Client) -> Outcome {
    let answer = client
        .post(
            &format!("/api/v1/queues/{}:{action}", segment(&args.queue)),
            &json!({}),
        )
        .await?;
    show(args.read.output, &answer.body, |queue| {
        table(std::slice::from_ref(queue))
    })
}

fn table(queues: &[Value]) -> String {
    let mut table = Table::new(["NAME", "STATE", "WAITING", "RUNNING", "REDELIVERED", "OPEN PULLS"]);
    for q in queues {
        let state = if q["paused"] == true { "paused" } else { "open" };
        table.row([
            text(q, "/name"),
            state.into(),
            text(q, "/pending"),
            text(q, "/running"),
            text(q, "/redelivered"),
            text(q, "/freeSlotRequests"),
        ]);
    }
    table.text("no queues")
}
