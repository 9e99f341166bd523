// What a client's script shares: the gateway's address, and a line of JSON for each feature tried.
export const { LMAAS_URL: url, LMAAS_KEY: key, LMAAS_SERVED_MODEL: model } = process.env;
export const QUESTION = "Say in one sentence what a lighthouse is for.";
export const PERSON = "Ada Lovelace was 36 years old.";
export const WEATHER = "What is the weather in Oslo? Use the tool.";

export async function tryAll(features) {
  for (const [feature, attempt] of Object.entries(features)) {
    try {
      await attempt();
      console.log(JSON.stringify({ feature, works: true }));
    } catch (error) {
      console.error(error);
      console.log(JSON.stringify({ feature, works: false, reason: String(error.message ?? error) }));
    }
  }
}

export function check(condition, what) {
  if (!condition) throw new Error(`no ${what}`);
}
