package dfs.interop;

import java.util.Arrays;

/** The commands of tests/hadoop/run. */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    String command = args.length > 0 ? args[0] : "";
    String[] rest = Arrays.copyOfRange(args, Math.min(1, args.length), args.length);
    switch (command) {
      case "capture":
        Capture.run(rest);
        break;
      case "read-block":
        ReadBlock.run(rest);
        break;
      case "verify-meta":
        VerifyMeta.run(rest);
        break;
      default:
        System.err.println("commands: capture DIR | read-block ... | verify-meta BLOCK_FILE META_FILE");
        System.exit(2);
    }
  }
}
