// What an action of the journal asks for, in a few words.
import { counted } from "./page/basics.js";

export function actionWords(action) {
  switch (action.type) {
    case "Expand": return expandWords(action);
    case "Start": return `${expandWords(action.expand)}, ${action.parallel} at a time`;
    case "Score": return `${action.nodes.length} by ${action.verifier}`;
    case "Embed": return `${action.nodes.length} texts`;
    case "Propose": return String(action.answer?.text ?? "");
    case "Release": return `all but ${action.all_but.length}${action.reason ? `: ${action.reason}` : ""}`;
    case "CallTool": return String(action.name);
    case "Compute": return String(action.fn);
    case "AskHuman": return String(action.question);
    case "Next":
    case "Cancel": return `of action ${action.stream}`;
    default: return action.node === undefined ? "" : `node ${action.node}`;
  }
}
function expandWords({ num_samples: numbers, nodes, model }) {
  const total = numbers.reduce((sum, number) => sum + number, 0);
  return `${counted(total, "sample", "samples")} of ${nodes.length === 1 ? `node ${nodes[0]}` : `${nodes.length} nodes`} by ${model}`;
}
