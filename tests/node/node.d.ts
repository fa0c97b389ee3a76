// The little of Node that generated.ts uses, in place of all of @types/node.
declare module "node:fs" {
  const fs: { readFileSync(path: string): Uint8Array<ArrayBuffer> };
  export default fs;
}
declare const process: { argv: string[] };
